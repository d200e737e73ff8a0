"""The commands: their options and help. What they do is in ``cli_commands`` and beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import jaxpress
from jaxpress.cli_output import failures

__all__ = ["make_app"]

TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="package.module:function or path/file.py:function; the function takes no arguments "
        "and returns (fn, args) or (fn, args, kwargs). Arguments may be jax.ShapeDtypeStruct.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="On failure, show the traceback too.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, for programs.")]
Optimized = Annotated[bool, typer.Option("--optimized", help="The graph after the passes.")]
Passes = Annotated[
    str | None,
    typer.Option(
        "--passes",
        metavar="NAMES",
        help="A preset (default, inference, training, cleanup), or names of passes with commas "
        "between.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="NUMBERS",
        help="Positions of the arguments that hold weights, such as 0 or 0,1. Closed-over arrays "
        "are weights anyway.",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"jaxpress {jaxpress.__version__}")
        raise typer.Exit()


def top(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Capture a JAX function as a graph, rewrite it, and compare, time and draw the result."""


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the pictures go.")
    ] = Path("jaxpress-demo"),
    json: Json = False,
    debug: Debug = False,
    size: Annotated[
        int, typer.Option("--size", min=32, help="Width and height of the image.", hidden=True)
    ] = 224,
    blocks: Annotated[
        int, typer.Option("--blocks", min=1, help="Rounds of timing.", hidden=True)
    ] = 10,
) -> None:
    """Optimise Keras' MobileNetV2; check, time and draw the result on a photograph."""
    with failures(debug):
        from jaxpress.cli_demo import demo_command

        demo_command(out, json=json, size=size, blocks=blocks)


def show(
    target: TargetArgument,
    full: Annotated[bool, typer.Option("--full", help="Every node, one line each.")] = False,
    optimized: Optimized = False,
    passes: Passes = None,
    weights: Weights = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a function computes: its operations, how many, and what they cost."""
    with failures(debug):
        from jaxpress.cli_commands import show_command

        show_command(
            target, full=full, optimized=optimized, passes=passes, weights=weights, json=json
        )


def optimize(
    target: TargetArgument,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare with the original, both against float64."),
    ] = False,
    bench: Annotated[bool, typer.Option("--bench", help="Time against jax.jit.")] = False,
    passes: Passes = None,
    weights: Weights = None,
    blocks: Annotated[
        int, typer.Option("--blocks", min=2, help="Rounds of timing, for --bench.")
    ] = 10,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the passes and report what each did."""
    with failures(debug):
        from jaxpress.cli_commands import optimize_command

        optimize_command(
            target,
            check=verify,
            bench=bench,
            passes=passes,
            weights=weights,
            blocks=blocks,
            json=json,
        )


def render(
    target: TargetArgument,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The picture; its suffix says how: .svg, .png, .pdf, .html, .dot or .json.",
        ),
    ],
    optimized: Optimized = False,
    depth: Annotated[
        int | None,
        typer.Option("--depth", min=0, help="How many levels of scopes and functions to open."),
    ] = None,
    passes: Passes = None,
    weights: Weights = None,
    debug: Debug = False,
) -> None:
    """Draw a function's graph. With --optimized, .html and .json hold both graphs."""
    with failures(debug):
        from jaxpress.cli_commands import render_command

        render_command(
            target, out, optimized=optimized, depth=depth, passes=passes, weights=weights
        )


def bisect(
    target: TargetArgument,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="FILE", help="The script that shows the difference, a .py file."
        ),
    ] = Path("repro.py"),
    passes: Passes = None,
    weights: Weights = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance", min=0.0, help="The largest relative error; by dtype if left out."
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the single rewrite that changes what a function computes, and write a script of it."""
    with failures(debug):
        from jaxpress.cli_bisect import bisect_command

        found = bisect_command(
            target, out, passes=passes, weights=weights, tolerance=tolerance, json=json
        )
        if found:
            raise typer.Exit(1)


def doctor(json: Json = False, debug: Debug = False) -> None:
    """Check the installation: versions, devices, extras, a renderer, and a small run."""
    with failures(debug):
        from jaxpress.doctor import doctor_command

        if not doctor_command(json=json):
            raise typer.Exit(1)


def make_app() -> typer.Typer:
    """The command line as a typer application."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(top)
    for command in (demo, show, optimize, render, bisect, doctor):
        app.command()(command)
    return app
