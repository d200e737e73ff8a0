"""The demo at a small size: its figures, its files, and what it says when something is missing."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from command_line import Run

from jaxpress import JaxpressError, cli_demo, demo, trace
from jaxpress.viz import RendererNotFound

SMALL = ("--size", "64", "--blocks", "1")


@pytest.fixture(scope="module")
def model() -> demo.DemoModel:
    return demo.mobilenet(64)


def test_the_network_is_not_trivial(model: demo.DemoModel) -> None:
    """Batch norms with real statistics, and an output that a wrong fold would change."""
    assert model.parameters == 3_538_984
    assert model.x.shape == (1, 64, 64, 3)
    y = np.asarray(jax.jit(model.fn)(model.x))
    assert y.shape == (1, 1000)
    assert y.sum() == pytest.approx(1.0, rel=1e-4)
    assert 3 / 1000 < y.max() < 0.9  # neither flat nor saturated


def test_photographs() -> None:
    images = demo.photographs(48)
    assert images.shape == (8, 48, 48, 3) and images.dtype == np.float32
    assert -1 <= images.min() < -0.5 and 0.5 < images.max() <= 1
    apart = np.abs(images[:, None] - images[None]).mean((2, 3, 4))
    assert apart[~np.eye(8, dtype=bool)].min() > 0.1


def test_the_demo_in_json(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, model: demo.DemoModel
) -> None:
    built = []

    def mobilenet(size: int) -> demo.DemoModel:
        built.append(demo.mobilenet(size))
        return built[0]

    monkeypatch.setattr(cli_demo, "mobilenet", mobilenet)
    done = run("demo", "--out", tmp_path / "new" / "folder", "--json", *SMALL)
    assert done.code == 0
    found = json.loads(done.out)
    assert found["report"]["nodes_after"] < found["report"]["nodes_before"] / 5
    assert found["report"]["ops_after"]["conv"] == 52
    assert "batch_norm" not in found["report"]["ops_after"]
    assert found["verify"]["passed"] and 0 < found["verify"]["error"] < 1e-3
    assert found["bench"]["speedup"] > 0
    names = sorted(Path(file).name for file in found["files"])
    assert names == ["after.svg", "before.svg", "report.html"]
    assert all(Path(file).stat().st_size > 1000 for file in found["files"])
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == names
    assert "times as fast as with jax.jit" in done.err
    # The weights are the same in every run.
    first, second = (trace(m.fn)(m.x).constant_values.values() for m in (model, built[0]))
    assert len(first) == len(second) > 100
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_demo_without_a_renderer(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, model: demo.DemoModel
) -> None:
    from jaxpress.viz import render as module_function

    def no_layout(dot: str, suffix: str) -> bytes:
        raise RendererNotFound(f".{suffix}")

    monkeypatch.setitem(module_function.__globals__, "layout", no_layout)
    monkeypatch.setattr(cli_demo, "mobilenet", lambda size: model)
    monkeypatch.chdir(tmp_path)
    done = run("demo", *SMALL)
    assert done.code == 0
    assert sorted(p.name for p in (tmp_path / "jaxpress-demo").iterdir()) == [
        "after.dot",
        "before.dot",
    ]
    assert 'pip install "jaxpress[graphviz]"' in done.out
    assert "largest error" in done.out and "runs " in done.out


@pytest.mark.parametrize("package", ["keras", "scikit-learn", "pillow"])
def test_a_missing_package(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    module = demo._MODULES[package]
    find = importlib.util.find_spec
    monkeypatch.setattr(
        demo.importlib.util, "find_spec", lambda name: None if name == module else find(name)
    )
    done = run("demo", "--out", tmp_path / "new", *SMALL)
    assert done.code == 1
    assert f'the demo needs {package}; install with: pip install "jaxpress[demo]"' in done.err
    assert not (tmp_path / "new").exists()


def test_a_file_where_the_folder_should_be(tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").write_text("")
    done = run("demo", "--out", tmp_path / "file", *SMALL)
    assert done.code == 1 and "cannot make the folder" in done.err
    done = run("demo", "--out", tmp_path / "file" / "below", *SMALL)
    assert done.code == 1 and "cannot make the folder" in done.err


def test_keras_on_another_backend() -> None:
    """In a process of its own, since Keras reads its backend once."""
    script = (
        "import keras\n"
        "from jaxpress.demo import import_keras\n"
        "from jaxpress import JaxpressError\n"
        "try:\n"
        "    import_keras()\n"
        "except JaxpressError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env={**os.environ, "KERAS_BACKEND": "numpy"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Keras runs on numpy in this process" in done.stdout, done.stderr


def test_keras_is_imported_on_jax_and_the_environment_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "whatever")
    assert demo.import_keras().backend.backend() == "jax"
    assert os.environ["KERAS_BACKEND"] == "whatever"


def test_a_keras_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(JaxpressError, match="Keras does not import"):
        demo.import_keras()
