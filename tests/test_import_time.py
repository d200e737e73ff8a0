"""Importing jaxpress must stay light: heavy libraries load when a function needs them."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "PIL",
    "click",
    "equinox",
    "flax",
    "graphviz",
    "haiku",
    "hypothesis",
    "keras",
    "networkx",
    "onnx",
    "optax",
    "pygraphviz",
    "pytest",
    "rich",
    "sklearn",
    "tensorflow",
    "torch",
    "typer",
}


def loaded_by(statement: str) -> set[str]:
    """Top-level names of every module that is loaded once a fresh Python ran the statement."""
    script = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    "module",
    ["jaxpress", "jaxpress.capture", "jaxpress.nnops", "jaxpress.passes", "jaxpress.viz"],
)
def test_import_loads_nothing_heavy(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert "jaxpress" in loaded
    assert not loaded & HEAVY


def test_a_heavy_import_is_seen() -> None:
    assert "networkx" in loaded_by("import networkx") & HEAVY
