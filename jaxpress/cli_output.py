"""What the command line prints: data to stdout, the rest to stderr, one message for a failure."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from jaxpress.capture.errors import JaxpressError, TargetError
from jaxpress.targets import Target, describe_error

if TYPE_CHECKING:
    from rich.console import Console

    from jaxpress.passes.record import Step

__all__ = ["StepPrinter", "failures", "note", "print_json", "tracing"]


def note(text: str) -> None:
    """Tell people something that is not data."""
    print(text, file=sys.stderr, flush=True)


def print_json(data: Any) -> None:
    """Write one JSON document to stdout; what JSON has no number for becomes null."""
    print(json.dumps(_plain(data), indent=1, allow_nan=False))


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    if isinstance(data, float) and not abs(data) < float("inf"):
        return None
    return data


@contextlib.contextmanager
def failures(debug: bool) -> Iterator[None]:
    """Turn an exception into one message on stderr and the exit code 1.

    Args:
      debug: whether to show the traceback as well.
    """
    import typer

    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, JaxpressError):
            note(f"error: {error}")
        elif isinstance(error, MemoryError):
            said = " ".join(str(error).split())
            note(f"error: out of memory{': ' * bool(said)}{said}; try smaller arguments")
        else:
            hint = "" if debug else "; --debug shows where"
            note(f"error: jaxpress failed with {describe_error(error, anywhere=True)}{hint}")
        raise typer.Exit(1) from None


@contextlib.contextmanager
def tracing(target: Target) -> Iterator[None]:
    """Name the target where its function fails while it is traced; its prints go to stderr."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except JaxpressError as error:
        raise TargetError(f'target "{target.name}": {error}') from error
    except (Exception, SystemExit) as error:
        raise TargetError(
            f'target "{target.name}": its function cannot be traced: {describe_error(error)}'
        ) from error


class StepPrinter:
    """Shows a report as the passes run: a table that grows on a terminal, lines elsewhere.

    Use it as a context manager, and as ``on_step``.

    Args:
      stderr: whether to write to stderr, because stdout is for something else.
    """

    def __init__(self, *, stderr: bool = False):
        from rich.console import Console

        # Held on to, since user code may run with sys.stdout turned elsewhere meanwhile.
        self._file = sys.stderr if stderr else sys.stdout
        self.console: Console = Console(file=self._file, highlight=False)
        self._live: Any = None
        self._table: Any = None
        self._has_begun = False

    def __enter__(self) -> Callable[[Step], None]:
        return self._on_step

    def __exit__(self, *_: Any) -> None:
        if self._live is not None:
            self._live.stop()

    def _begin(self) -> None:
        """Write the heading: with the first step, since until then the function may fail."""
        self._has_begun = True
        heading = ("pass", "nodes", "MFLOPs", "ms", "rules")
        if self.console.is_terminal:
            from rich.live import Live
            from rich.table import Table

            self._table = Table(box=None, pad_edge=False)
            for i, name in enumerate(heading):
                self._table.add_column(name, justify="right" if i in (1, 2, 3) else "left")
            self._live = Live(self._table, console=self.console, vertical_overflow="visible")
            self._live.start()
        else:
            self._line(heading)

    def _on_step(self, step: Step) -> None:
        if not self._has_begun:
            self._begin()
        row = (
            step.pass_name,
            f"{step.nodes_before} -> {step.nodes_after}",
            f"{step.flops_before / 1e6:.1f} -> {step.flops_after / 1e6:.1f}",
            f"{step.seconds * 1e3:.1f}",
            ", ".join(f"{rule} {n}" for rule, n in sorted(step.matches().items())),
        )
        if self._table is not None:
            self._table.add_row(*row)
            self._live.refresh()
        else:
            self._line(row)

    def _line(self, row: tuple[str, ...]) -> None:
        name, nodes, flops, ms, rules = row
        text = f"{name:<18} {nodes:>15} {flops:>17} {ms:>7}  {rules}".rstrip()
        print(text, file=self._file, flush=True)
