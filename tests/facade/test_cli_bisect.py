"""``jaxpress bisect``: exit codes, text and JSON, and the script that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
from command_line import Run

from jaxpress.passes import Pass, Pipeline, Rule, any_value, op, presets

TARGET = "targets.py:scaled"


def test_nothing_wrong(folder: Path, run: Run) -> None:
    done = run("bisect", TARGET)
    assert done.code == 0 and "none of" in done.out
    assert not (folder / "repro.py").exists()
    assert json.loads(run("bisect", TARGET, "--json").out)["found"] is False


def test_a_wrong_rule(folder: Path, run: Run, monkeypatch) -> None:
    wrong = Pass("wrong", Rule("w", op("tanh", any_value("x")), lambda x: -jnp.abs(x)))
    monkeypatch.setitem(presets._PRESETS, "mine", Pipeline([wrong], "mine"))
    done = run("bisect", TARGET, "--passes", "mine", "-o", "found.py", "--json")
    document = json.loads(done.out)
    assert done.code == 1 and document["found"] is True and document["rule"] == "w"
    assert (folder / "found.py").exists() and (folder / "found.npz").exists()
    assert "wrote found.py" in done.err


def test_a_wrong_suffix_is_refused_before_anything_runs(folder: Path, run: Run) -> None:
    done = run("bisect", TARGET, "-o", "found.txt")
    assert done.code == 1 and "found.txt" in done.err and done.out == ""
