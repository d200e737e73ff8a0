"""The fixtures of the command line's tests."""

from command_line import folder, run

__all__ = ["folder", "run"]
