"""The command line: what goes to stdout and stderr, exit codes, bad input, and no partial files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from command_line import Done, Run

import jaxpress
from jaxpress import cli_commands
from jaxpress.cli_output import StepPrinter
from jaxpress.passes import Pipeline, Rule, any_value, op

TARGET = "targets.py:scaled"


def failed(done: Done, *parts: str) -> None:
    """One message on stderr, nothing on stdout, exit code 1."""
    assert done.code == 1
    assert done.out == ""
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in done.err
    for part in parts:
        assert part in done.err


def test_version(run: Run) -> None:
    assert run("--version").out == f"jaxpress {jaxpress.__version__}\n"


def test_without_a_command_there_is_help(run: Run) -> None:
    done = run()
    assert "Usage" in done.out + done.err
    assert all(c in done.out + done.err for c in ("demo", "show", "optimize", "render", "doctor"))


@pytest.mark.parametrize(
    "args",
    [
        ("shwo", TARGET),
        ("show",),
        ("show", TARGET, "--nonsense"),
        ("render", TARGET),
        ("render", TARGET, "-o", "x.dot", "--depth", "-1"),
        ("optimize", TARGET, "--blocks", "1"),
    ],
)
def test_a_wrong_command_is_a_usage_error(folder: Path, run: Run, args: tuple[str, ...]) -> None:
    done = run(*args)
    assert done.code == 2
    assert done.out == "" and "Usage" in done.err


# show


def test_show_gives_a_summary(folder: Path, run: Run) -> None:
    done = run("show", TARGET)
    assert done.code == 0
    assert "net(x: f32[2,3])" in done.out
    assert "dot_general" in done.out and "tanh" in done.out
    assert "talks" not in done.out and "the target talks" in done.err
    assert "so does its function" in done.err


def test_show_full_has_a_line_for_each_node(folder: Path, run: Run) -> None:
    text = run("show", TARGET, "--full").out
    assert " = dot_general(x, " in text and "targets.py:" in text and "return " in text


def test_show_optimized(folder: Path, run: Run) -> None:
    text = run("show", TARGET, "--optimized").out
    assert "dense" in text and "dot_general" not in text and "prologue" in text
    assert "dot_general" in run("show", TARGET, "--optimized", "--passes", "cleanup").out


def test_show_json(folder: Path, run: Run) -> None:
    brief = json.loads(run("show", TARGET, "--json").out)
    assert brief["function"] == "net" and brief["inputs"] == ["x:f32[2,3]"]
    assert {row["op"]: row["count"] for row in brief["ops"]} == {
        "dot_general": 1,
        "mul": 1,
        "tanh": 1,
    }
    assert brief["flops"] >= 48 and "graph" not in brief
    full = json.loads(run("show", TARGET, "--json", "--full", "--optimized").out)
    assert [node["op"] for node in full["graph"]["graphs"][0]["nodes"]] == ["dense"]


def test_show_takes_shapes(folder: Path, run: Run) -> None:
    done = run("show", "targets.py:shapes")
    assert done.code == 0 and "f32[5,4]" in done.out


# optimize


def test_optimize_reports_each_pass(folder: Path, run: Run) -> None:
    done = run("optimize", TARGET)
    assert done.code == 0
    rows = [line.split()[0] for line in done.out.splitlines()]
    names = [p.name for p in jaxpress.passes.default]
    assert rows == ["pass", *names, "net:"]
    assert "raise_dense 1" in done.out and "so does its function" in done.err


def test_optimize_verifies_and_times(folder: Path, run: Run) -> None:
    done = run("optimize", TARGET, "--verify", "--bench", "--blocks", "2")
    assert done.code == 0
    assert "result['y']" in done.out and " ok" in done.out and "float64" in done.out
    assert "jax.jit takes " in done.out and "core" in done.out
    assert "random arrays" not in done.err


def test_optimize_json(folder: Path, run: Run) -> None:
    done = run("optimize", TARGET, "--verify", "--bench", "--blocks", "2", "--json")
    found = json.loads(done.out)
    assert found["report"]["ops_after"] == {"dense": 1}
    assert found["verify"]["passed"] and found["verify"]["outputs"][0]["shape"] == [2, 4]
    bench = found["bench"]
    assert bench["speedup"] == pytest.approx(bench["ratios"]["jax.jit"]["jaxpress"])
    assert bench["rounds"] == 2 and bench["cores"] >= 1
    assert "raise_dense 1" in done.err  # progress, for people


def test_optimize_makes_arrays_for_shapes(folder: Path, run: Run) -> None:
    done = run("optimize", "targets.py:shapes", "--weights", "0", "--verify")
    assert done.code == 0
    assert "5 arguments given as shapes: using random arrays with a fixed seed" in done.err
    assert "random arrays" not in run("optimize", "targets.py:shapes").err


def test_a_callable_that_cannot_be_hashed_is_timed(folder: Path, run: Run) -> None:
    """Equinox's models, for one, are compared by their arrays."""
    (folder / "model.py").write_text(
        "import jax.numpy as jnp\n"
        "class Model:\n"
        "    __hash__ = None\n"
        "    def __call__(self, x):\n"
        "        return jnp.sin(x)\n"
        "def t():\n"
        "    return Model(), (1.0,)\n"
    )
    done = run("optimize", "model.py:t", "--bench", "--blocks", "2")
    assert done.code == 0 and "jax.jit takes " in done.out


def test_a_wrong_result_fails_after_the_figures(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Rule("wrong", op("tanh", any_value("x")), lambda x: jnp.sin(x))
    monkeypatch.setattr(cli_commands, "pipeline_of", lambda _: Pipeline([wrong]))
    done = run("optimize", TARGET, "--verify", "--bench")
    assert done.code == 1
    assert "is above" in done.out and "median" not in done.out
    assert "error: " in done.err and "differs from the original" in done.err
    found = json.loads(run("optimize", TARGET, "--verify", "--json").out)
    assert not found["verify"]["passed"] and found["verify"]["outputs"][0]["problem"]


def test_a_failing_pass_is_named(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(graph: Any) -> Any:
        raise ZeroDivisionError("in a pass")

    monkeypatch.setattr(cli_commands, "pipeline_of", lambda _: Pipeline([spoil]))
    done = run("optimize", TARGET)
    assert done.code == 1
    assert "in a pass" in done.err and "cannot be traced" not in done.err


def test_a_terminal_gets_one_table(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with StepPrinter() as on_step:
        _, report = cli_commands.optimized(
            cli_commands.Target("t", jnp.sin, (1.0,)), on_step=on_step
        )
    text = capsys.readouterr().out
    assert "\x1b[" in text and text.count("fold_constants") >= 1
    assert len(report.steps) == len(jaxpress.passes.default)


# render


@pytest.mark.parametrize("suffix", [".dot", ".json"])
def test_render_writes_text(folder: Path, run: Run, suffix: str) -> None:
    done = run("render", TARGET, "-o", f"g{suffix}")
    assert done.code == 0 and done.out == ""
    assert f"wrote g{suffix}" in done.err
    assert "dot_general" in (folder / f"g{suffix}").read_text()


def test_render_draws(folder: Path, run: Run) -> None:
    pytest.importorskip("pygraphviz")
    assert run("render", TARGET, "-o", "g.svg", "--optimized").code == 0
    text = (folder / "g.svg").read_text()
    assert "<svg" in text and "dense" in text and "dot_general" not in text
    assert run("render", TARGET, "-o", "g.html", "--optimized", "--weights", "").code == 0
    assert "dot_general" in (folder / "g.html").read_text()


def test_render_depth(folder: Path, run: Run) -> None:
    (folder / "deep.py").write_text(
        "import jax, jax.numpy as jnp\n"
        "def t():\n"
        "    def net(x):\n"
        "        with jax.named_scope('first'):\n"
        "            x = jnp.sin(x) * 2 + jnp.cos(x)\n"
        "        with jax.named_scope('second'):\n"
        "            return jnp.tanh(x) * jnp.exp(x)\n"
        "    return net, (1.0,)\n"
    )
    run("render", "deep.py:t", "-o", "open.dot", "--depth", "2")
    run("render", "deep.py:t", "-o", "closed.dot", "--depth", "1")
    boxes = [(folder / f"{n}.dot").read_text().count("tooltip=") for n in ("open", "closed")]
    assert boxes[0] > boxes[1]


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("g.bmp", "its suffix must be one of .svg, .png"),
        ("g", "its suffix must be one of"),
        ("nowhere/g.dot", "there is no folder nowhere"),
        ("folder.dot", "it is a folder"),
        ("/proc/g.dot", "annot write"),
    ],
)
def test_render_says_what_is_wrong_with_the_path(
    folder: Path, run: Run, out: str, said: str
) -> None:
    (folder / "folder.dot").mkdir()
    before = {*folder.iterdir(), folder / "__pycache__"}
    failed(run("render", TARGET, "-o", out), said)
    assert set(folder.iterdir()) <= before


def test_a_failure_leaves_the_older_file(folder: Path, run: Run) -> None:
    (folder / "g.dot").write_text("older")
    failed(run("render", "targets.py:untraceable", "-o", "g.dot"), "cannot be traced")
    assert (folder / "g.dot").read_text() == "older"
    failed(run("render", "targets.py:untraceable", "-o", "new.dot"))
    assert not (folder / "new.dot").exists()


# Bad input


@pytest.mark.parametrize("command", ["show", "optimize", "render", "bisect"])
@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("targets.py", "names no function"),
        ("nowhere.py:f", "there is no file"),
        ("targets.py:scald", 'has no "scald"'),
        ("targets.py:needs_argument", "is called without arguments"),
        ("targets.py:gives_none", "it returned None"),
        ("targets.py:untraceable", "<lambda> cannot be traced"),
        ("targets.py:fails_in_trace", "its function cannot be traced: TypeError"),
        ("targets.py:takes_text", "args[0] of <lambda> is a str, 'text', and no array"),
        ("targets.py:leaves_in_trace", "its function cannot be traced: SystemExit: 4"),
    ],
)
def test_bad_targets(folder: Path, run: Run, command: str, target: str, said: str) -> None:
    more = {"render": ("-o", "g.dot"), "bisect": ("-o", "g.py")}.get(command, ())
    failed(run(command, target, *more), f'target "{target}"', said)
    assert not list(folder.glob("g.*"))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--passes", "fastest"), "no preset or pass is called 'fastest'; presets are"),
        (("--passes", "inline,fastest"), "no preset or pass is called 'fastest'"),
        (("--passes", ""), "no preset or pass is called ''"),
        (("--weights", "x"), "--weights is 'x'; give positions of arguments"),
        (("--weights", "4"), "weight_argnums has 4"),
    ],
)
def test_bad_options(folder: Path, run: Run, args: tuple[str, ...], said: str) -> None:
    failed(run("show", TARGET, "--optimized", *args), said)
    failed(run("optimize", TARGET, "--json", *args), said)
    failed(run("optimize", TARGET, *args), said)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "symbolic",
            "target \"targets.py:symbolic\": kwargs['x'] has the shape (b, 3); running it",
        ),
        ("too_large", "out of memory: Unable to allocate"),
    ],
)
def test_what_cannot_be_run_is_said_before_the_report(
    folder: Path, run: Run, target: str, said: str
) -> None:
    failed(run("optimize", f"targets.py:{target}", "--verify"), said)
    assert run("optimize", f"targets.py:{target}").code == 0


def test_no_line_of_ours_is_named_for_a_mistake_of_the_target(folder: Path, run: Run) -> None:
    done = run("show", "targets.py:takes_text")
    assert ".py:" not in done.err.replace("targets.py:takes_text", "")


def test_debug_shows_where(folder: Path, run: Run) -> None:
    done = run("show", "targets.py:raises", "--debug")
    assert done.code == 1
    assert "Traceback" in done.err and "RuntimeError" in done.err
    assert done.err.splitlines()[-1].startswith("error: ")


# As a program of its own


def program(*args: str, **options: Any) -> Any:
    # -P: the folder that the tests run in may be the repository's root.
    command = [sys.executable, "-P", "-m", "jaxpress", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_exit_codes_of_the_program(folder: Path) -> None:
    done = program("show", TARGET)
    assert done.returncode == 0 and "dot_general" in done.stdout
    done = program("show", "targets.py:raises")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert program("show").returncode == 2


def test_an_encoding_that_lacks_a_sign_is_no_failure(folder: Path) -> None:
    (folder / "greek.py").write_text("def t():\n    def λ(x): return x\n    return λ, (1.0,)\n")
    done = program("show", "greek.py:t", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "\\u03bb" in done.stdout
