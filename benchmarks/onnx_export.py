"""Exports a Keras model of the zoo to ONNX, with the very weights that it has here.

    python benchmarks/onnx_export.py keras_resnet50 --cache /tmp/onnx

PyTorch's exporter is the rival at its best: channels first, batch norms folded. Keras can run on
one backend per process, so a second process builds the same network on torch, takes over the
weights and exports. Needs torch, onnxscript and onnxruntime. Files go to a temporary folder, or to
`--cache`, where a file is reused as long as versions and weights are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from zoo_keras import APPLICATIONS, all_layers, import_keras

import zoo

NEEDS = ("torch", "onnx", "onnxscript", "onnxruntime")


def missing(name: str) -> str | None:
    """Why this model cannot be exported here, or None when it can."""
    if name not in APPLICATIONS:
        return "only the keras.applications models have a twin on torch"
    absent = [package for package in NEEDS if find_spec(package) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def default_cache() -> Path:
    """The folder for exported files when none is given."""
    return Path(tempfile.gettempdir()) / "jaxpress-onnx"


def export(model: zoo.Model, cache: Path | None = None) -> Path:
    """The ONNX file of a Keras model of the zoo; writes it unless the cache has it.

    Raises RuntimeError where a package is missing or the export fails, with the exporter's words.
    """
    reason = missing(model.name)
    if reason:
        raise RuntimeError(f"{model.name} has no ONNX file: {reason}")
    cache = cache or default_cache()
    cache.mkdir(parents=True, exist_ok=True)
    size = model.args[0].shape[1]
    arrays = [np.asarray(v.value) for v in _variables(model.source)]
    path = cache / f"{model.name}-{size}-{_digest(arrays)}.onnx"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        weights, out = Path(folder) / "weights.npz", Path(folder) / "model.onnx"
        np.savez(weights, *arrays)
        command = [sys.executable, __file__, model.name, "--size", str(size)]
        done = subprocess.run(
            [*command, "--weights", str(weights), "--out", str(out)],
            env={**os.environ, "KERAS_BACKEND": "torch"},
            capture_output=True,
            text=True,
        )
        if done.returncode or not out.exists():
            raise RuntimeError(f"exporting {model.name} failed:\n{done.stderr[-4000:]}")
        os.replace(out, path)
    return path


def session(path: Path, threads: int | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """A function of one NCHW float32 array that runs the file on the CPU.

    threads: for one operator; None for all cores, as XLA uses.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    runtime = onnxruntime.InferenceSession(str(path), options, providers=providers)
    name = runtime.get_inputs()[0].name

    def run(x: np.ndarray) -> np.ndarray:
        return runtime.run(None, {name: x})[0]

    return run


def channels_first(x: Any) -> np.ndarray:
    """NHWC to NCHW, as a contiguous NumPy array."""
    return np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1))


def _digest(arrays: list[np.ndarray]) -> str:
    found = hashlib.sha256()
    for package in (*NEEDS, "keras"):
        found.update(metadata.version(package).encode())
    for array in arrays:
        found.update(array.tobytes())
    found.update(Path(__file__).read_bytes())
    return found.hexdigest()[:16]


def _variables(network) -> list[Any]:
    """Weights in the order of the layers, which the data format does not change."""
    return [variable for layer in all_layers(network) for variable in layer.variables]


def _export_on_torch(name: str, size: int, weights: Path, out: Path) -> None:
    """The second process: builds the network on torch, sets its weights, writes the ONNX file."""
    keras = import_keras("torch")
    keras.config.set_image_data_format("channels_first")
    import torch

    network = getattr(keras.applications, APPLICATIONS[name])(
        weights=None, input_shape=(3, size, size)
    )
    arrays = np.load(weights)
    variables = _variables(network)
    for variable, key in zip(variables, arrays.files, strict=True):
        # Keras keeps kernels HWIO whatever the data format: `assign` checks the shapes.
        variable.assign(arrays[key])
    for layer in all_layers(network):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    network.eval()
    example = (torch.zeros((1, 3, size, size)),)
    torch.onnx.export(network, example, str(out), dynamo=True, external_data=False)
    _subtract_by_adding(out)


def _subtract_by_adding(path: Path) -> None:
    """Writes `x - constant` as `x + (-constant)`: the same value, to the last bit.

    Keras on torch spells batch norm as (x - mean) * s + b. ONNX Runtime folds an Add and a Mul of
    constants into the convolution before them, but no Sub: as exported, MobileNetV2 takes three
    times as long.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    constants = {constant.name: constant for constant in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Sub" or node.input[1] not in constants:
            continue
        negated = f"{node.input[1]}_negated"
        if negated not in constants:
            array = np.negative(numpy_helper.to_array(constants[node.input[1]]))
            constants[negated] = numpy_helper.from_array(array, negated)
            model.graph.initializer.append(constants[negated])
        node.op_type, node.input[1] = "Add", negated
    onnx.save(model, str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=list(APPLICATIONS))
    parser.add_argument("--size", type=int, default=224, help="side of the image")
    parser.add_argument("--cache", type=Path, default=None, help="folder for the files")
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.out:
        _export_on_torch(options.model, options.size, options.weights, options.out)
        return
    model = zoo.build(options.model, size=options.size)
    path = export(model, options.cache)
    ours = np.asarray(model.fn(*model.args))
    theirs = session(path)(channels_first(model.args[0]))
    error = np.abs(ours - theirs).max() / np.abs(ours).max()
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, relative error {error:.1e}")


if __name__ == "__main__":
    main()
