"""The entry point of the ``jaxpress`` command; the commands themselves are in ``cli_app``."""

from __future__ import annotations

import io
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line on ``sys.argv`` and exit with its code.

    0: all went well. 1: something failed, and stderr says what. 2: the command itself was wrong.
    """
    from jaxpress.cli_app import make_app

    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not end the command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    make_app()(prog_name="jaxpress")


if __name__ == "__main__":
    main()
