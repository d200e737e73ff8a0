"""Writes what in the documentation can be read off the code, so that it cannot go stale.

    python docs/generate.py

docs/passes.md comes from the rules and the arrows in their comments, docs/cli.md from the commands,
docs/recognition.md from the table that tests/test_recognition.py checks, and the README's first
example with its output from a run of examples/flax_cnn.py. A test fails when one of them is behind
the code.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer

from jaxpress import passes
from jaxpress.cli_app import make_app
from jaxpress.nnops import activation_entries
from jaxpress.passes import Pass, Pipeline, Rule
from jaxpress.passes.pattern import AnyValue, Op, Scalar

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "flax_cnn.py"
PICTURE = ROOT / "docs" / "flax_cnn.svg"
NOTE = "<!-- Written by docs/generate.py: change the code, and run it. -->"

PRESETS = {
    "default": "Safe on any function: gradients and training steps included.",
    "inference": "Also assumes that nobody differentiates the result.",
    "training": "Leaves weights as they are, since each step changes them.",
    "cleanup": "Changes no values at all, and names no ops.",
}
NUMERICS = {
    "exact": "The same bits as before.",
    "reassociates": "Equal in real arithmetic; rounded in another order.",
    "approximate": "Not equal even in real arithmetic.",
}


def passes_page() -> str:
    """docs/passes.md."""
    presets = [p for p in vars(passes).values() if isinstance(p, Pipeline)]
    presets.sort(key=lambda p: list(PRESETS).index(p.name))
    lines = [
        NOTE,
        "# Passes and rules",
        "",
        "`jp.optimize(fn, passes=...)` takes a preset's name, a pipeline, or a list of passes,",
        "rules and names. [Writing a rule](writing-a-rule.md) tells how to add your own.",
        "",
        "## Presets",
        "",
        "| preset | what it is for | passes, in order |",
        "| --- | --- | --- |",
    ]
    for preset in presets:
        order = ", ".join(f"`{p.name}`" for p in preset)
        lines.append(f"| `{preset.name}` | {PRESETS[preset.name]} | {order} |")
    lines += ["", "## What a rule does to values", "", "| class | meaning |", "| --- | --- |"]
    lines += [f"| {name} | {meaning} |" for name, meaning in NUMERICS.items()]
    lines += ["", "## Passes", ""]
    comments = rule_comments()
    for one in all_passes():
        lines += [f"### {one.name}", "", one.summary.replace("``", "`"), ""]
        rows = rule_rows(one.rules, comments)
        if rows:
            lines += ["| rule | what it rewrites | values |", "| --- | --- | --- |", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def all_passes() -> list[Pass]:
    """Every pass that has a name in jaxpress.passes, in the order in which presets run them."""
    named = [p for p in vars(passes).values() if isinstance(p, Pass)]
    order = [p.name for p in passes.inference]
    return sorted(named, key=lambda p: (order.index(p.name) if p.name in order else 99, p.name))


def rule_rows(rules: Iterable[Rule], comments: dict[str, str]) -> list[str]:
    """A table row for each rule; several of one name are one."""
    rows = {}
    for rule in rules:
        activation = rule.name.removeprefix("raise_").removesuffix("_by_hand")
        if rule.name in comments:
            text = comments[rule.name]
        elif rule.name.startswith("raise_") and activation in activation_entries():
            text = f"the equations of `{activation}` -> `{activation}(x)`"
        else:
            text = f"`{pattern_text(rule.pattern)}`"
        rows[rule.name] = f"| `{rule.name}` | {text} | {rule.numerics} |"
    return list(rows.values())


def pattern_text(pattern: Any) -> str:
    """A pattern as an expression, for a rule without a comment."""
    if isinstance(pattern, Op):
        operands = ", ".join(map(pattern_text, pattern.operands)) or "..."
        return f"{'/'.join(sorted(pattern.names))}({operands})"
    if isinstance(pattern, Scalar):
        return pattern.name or f"{pattern.value:g}"
    if isinstance(pattern, AnyValue):
        return pattern.name or "_"
    names = getattr(pattern, "names", None)
    return "/".join(sorted(names)) if names else "..."


def rule_comments() -> dict[str, str]:
    """The comment above each rule in passes/rules/: its arrow."""
    found = {}
    for path in sorted((ROOT / "passes" / "rules").glob("*.py")):
        source = path.read_text()
        lines = source.splitlines()
        block = ""
        for statement in ast.parse(source).body:
            calls = [node for node in ast.walk(statement) if is_rule(node)]
            # A comment stands for all rules below it until an empty line.
            above = lines[statement.lineno - 2].strip()
            if not calls or not above or above.startswith("#"):
                block = comment_above(lines, statement.lineno) if calls else ""
            for call in calls:
                text = comment_above(lines, call.lineno) or block
                if text:
                    found[call.args[0].value] = text
    return found


def is_rule(node: ast.AST) -> Any:
    """Whether a node of Python's syntax is `Rule("name", ...)`."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Rule"
        and node.args
        and isinstance(node.args[0], ast.Constant)
    )


def comment_above(lines: list[str], number: int) -> str:
    """The comment that ends on the line above `number`, as one line of Markdown."""
    block: list[str] = []
    for line in reversed(lines[: number - 1]):
        if not line.strip().startswith("#"):
            break
        block.append(line.strip().lstrip("#").strip())
    text = " ".join(reversed(block)).replace("|", "\\|")
    # What stands before the first full stop is algebra: code, one piece for each rewrite.
    head, stop, rest = text.partition(". ")
    pieces = [f"`{p.strip()}`" if "->" in p or "(" in p else p for p in head.split(";  ")]
    return "; ".join(pieces) + stop + rest if text else ""


def cli_page() -> str:
    """docs/cli.md."""
    group: Any = typer.main.get_command(make_app())
    lines = [
        NOTE,
        "# The command line",
        "",
        "Data goes to stdout, everything else to stderr. The exit code is 0 when all went well,",
        "1 when something failed (a target, a check, a file) and 2 when the command itself was",
        "wrong. A failure leaves no partial file, and an older file as it was.",
        "",
        "## Targets",
        "",
        "A target is `package.module:function` or `path/file.py:function`; the function may be",
        "dotted (`Class.method`). It takes no arguments and returns what to trace and what with:",
        "",
        "```python",
        "def target():",
        "    return fn, (params, x)  # or fn, args, kwargs",
        "```",
        "",
        "Arguments may be `jax.ShapeDtypeStruct`. `--verify` and `--bench` need values: they then",
        "use random arrays with a fixed seed, and zeros for integers. The file is run as it is, so",
        "only name one that you trust; its folder is on `sys.path` while it is imported.",
        "",
    ]
    for name, command in group.commands.items():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join(["jaxpress", name, *(a.metavar for a in arguments), "[OPTIONS]"])
        lines += [f"## jaxpress {name}", "", command.help, "", "```sh", usage, "```", ""]
        rows = [
            f"| {', '.join(f'`{o}`' for o in p.opts)}{f' {p.metavar}' if p.metavar else ''} "
            f"| {p.help}{' Required.' if p.required else ''} |"
            for p in command.params
            if p.param_type_name == "option" and not p.hidden
        ]
        lines += ["| option | |", "| --- | --- |", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def recognition_page() -> str:
    """docs/recognition.md."""
    if str(ROOT / "tests") not in sys.path:
        sys.path.insert(0, str(ROOT / "tests"))
    layers = importlib.import_module("recognition.table").TABLE
    losses = importlib.import_module("recognition.losses").LOSSES
    lines = [
        NOTE,
        "# What is recognised",
        "",
        "Each cell is a layer as its framework's users write it, and the named ops that are left",
        "of it after `jp.optimize`, with its weights known; `tests/test_recognition.py` runs every",
        "one. Equations that only move data (reshape, transpose, slice)",
        "may stand around some of them. No rule knows a framework: they match what is computed.",
        "",
        *_rows("layer", layers),
        "",
        "## Losses",
        "",
        "Traced alone, or with the model before it. A sum or mean of all losses is the op's",
        "`reduction`; what optax and Keras give for labels out of range, and where 0 meets",
        "infinity, is kept by its other parameters.",
        "",
        *_rows("loss", losses),
    ]
    return "\n".join(lines) + "\n"


def _rows(what: str, table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    names = sorted({name for cases in table.values() for name in cases})
    lines = [f"| {what} | {' | '.join(table)} |", f"| --- |{' --- |' * len(table)}"]
    for name in names:
        cells = [_cell(cases[name].ops) if name in cases else "" for cases in table.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _cell(ops: Mapping[str, int]) -> str:
    return ", ".join(f"`{op}`" if n == 1 else f"{n} `{op}`" for op, n in ops.items())


def run_example() -> tuple[str, str]:
    """What examples/flax_cnn.py prints, and the picture that it draws."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-P", str(EXAMPLE)],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        picture = (Path(folder) / PICTURE.name).read_text()
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()), picture


def without_varying(text: str) -> str:
    """Text in which times, errors and gaps are all the same; counts stay."""
    text = re.sub(r"\d+(\.\d+)?( ms)", r"#\2", text)
    text = re.sub(r"\d+\.\d+(e[+-]\d+)?", "#", text)
    return re.sub(r" +", " ", text)


def words(svg: str) -> list[str]:
    """What is written in a picture; where it stands depends on the machine's fonts."""
    return re.findall(r"<text[^>]*>([^<]*)", svg)


def with_example(readme: str, output: str) -> str:
    """The README with the example's code and output in their place."""
    block = f"```python\n{EXAMPLE.read_text()}```\n\nwhich prints\n\n```text\n{output}\n```"
    marked = r"(<!-- example -->\n).*?(<!-- end of example -->)"
    return re.sub(marked, lambda m: f"{m[1]}{block}\n{m[2]}", readme, flags=re.DOTALL)


def main() -> None:
    (ROOT / "docs" / "passes.md").write_text(passes_page())
    (ROOT / "docs" / "cli.md").write_text(cli_page())
    (ROOT / "docs" / "recognition.md").write_text(recognition_page())
    readme = ROOT / "README.md"
    output, picture = run_example()
    before = readme.read_text()
    after = with_example(before, output)
    if without_varying(after) != without_varying(before):  # times alone are no news
        readme.write_text(after)
    if not PICTURE.exists() or words(picture) != words(PICTURE.read_text()):
        PICTURE.write_text(picture)


if __name__ == "__main__":
    main()
