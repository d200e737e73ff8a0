"""Whole models: `jax.jit` beside `jaxpress.optimize` beside ONNX Runtime, warm and cold.

    python benchmarks/models.py --quick
    python benchmarks/models.py --models keras_mobilenet_v2 keras_resnet50 --json out.json

Warm: outputs are compared first, then calls are timed side by side in blocks. Cold: the time from a
function to its first result, each run in a process of its own, the two in turn. Ends with status 1
when a model's outputs disagree.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx_export
from timing import compare, machine_facts, print_comparison, print_table, write_json

import zoo

CONVOLUTIONAL = [name for name in zoo.MODELS if not name.endswith(("_mlp", "_transformer"))]
APPLICATIONS = [name for name in CONVOLUTIONAL if name.startswith("keras_")]

# A random network of 50 layers turns one rounding at its start into 1e-4 at its end (ResNet50 under
# ONNX Runtime: 8e-5), and a wrong fold of one batch norm into 1e-1.
LARGEST_ERROR = 1e-3


def relative_error(got: Any, expected: Any) -> float:
    """max |got - expected| / max |expected|; infinite where got is not finite."""
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def load_optimizer(path: str):
    """The function at `module:attribute`, such as `jaxpress:optimize`."""
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def measure_warm(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Times one model and returns its record; prints a table, or why there is none."""
    import jax

    model = zoo.build(name, size=options.size)
    (x,) = model.args
    reference = jax.jit(model.fn)
    fast = load_optimizer(options.optimizer)(model.fn)
    functions = {"jit": lambda: reference(x), "jaxpress": lambda: fast(x)}
    absent = "not asked for" if options.no_onnx else onnx_export.missing(name)
    if absent is None:
        runtime = onnx_export.session(onnx_export.export(model, options.cache))
        image = onnx_export.channels_first(x)
        functions["onnxruntime"] = lambda: runtime(image)
    expected = functions["jit"]()
    errors = {
        rival: relative_error(run(), expected) for rival, run in functions.items() if rival != "jit"
    }
    record = {
        "model": name,
        "input": list(x.shape),
        "layers": {"conv": model.n_conv, "dense": model.n_dense, "batch_norm": model.n_batch_norm},
        "errors": errors,
        "agrees": all(error <= LARGEST_ERROR for error in errors.values()),
    }
    if not record["agrees"]:
        print(f"\n{name}: outputs disagree, not timed: {errors}")
        return record
    comparison = compare(functions, blocks=options.blocks, calls=options.calls, pause=options.pause)
    shown = ", ".join(f"{rival} {error:.0e}" for rival, error in errors.items())
    print_comparison(f"{name} {tuple(x.shape)}, relative errors: {shown}", comparison)
    return {**record, **comparison.as_dict()}


def measure_cold(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """First results of one model under each compiler, in processes that take turns."""
    seconds: dict[str, list[float]] = {"jit": [], "jaxpress": []}
    order = list(seconds)
    for _ in range(options.cold_runs):
        for compiler in order:
            seconds[compiler].append(_cold_process(name, compiler, options))
        order.reverse()
    pairs = zip(seconds["jaxpress"], seconds["jit"], strict=True)
    return {
        "model": name,
        "unit": "s",
        "runs": seconds,
        "median": {key: statistics.median(times) for key, times in seconds.items()},
        "ratio": statistics.median(ours / theirs for ours, theirs in pairs),
    }


def _cold_process(name: str, compiler: str, options: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--models", name, "--cold-worker", compiler]
    command += ["--optimizer", options.optimizer]
    if options.size:
        command += ["--size", str(options.size)]
    env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a cold run of {name} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def cold_worker(name: str, options: argparse.Namespace) -> None:
    """In a fresh process: builds the model, then times the compiler's first result; prints JSON."""
    import jax

    model = zoo.build(name, size=options.size)
    jax.block_until_ready(model.args)
    compiler = jax.jit if options.cold_worker == "jit" else load_optimizer(options.optimizer)
    start = time.perf_counter()
    jax.block_until_ready(compiler(model.fn)(*model.args))
    print(json.dumps(time.perf_counter() - start))


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; `--quick` fills in what is not given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--models", nargs="+", default=None, help="names, or `all`; default: the convolutional")
    add("--cold-models", nargs="+", default=None, help="default: Keras' own among the models")
    add("--size", type=int, default=None, help="input size; default: each model's own")
    add("--blocks", type=int, default=None, help="rounds of blocks of calls (12)")
    add("--calls", type=int, default=None, help="calls in a block (8)")
    add("--pause", type=float, default=0.1, help="seconds of rest before each block")
    add("--cold-runs", type=int, default=None, help="fresh processes each; 0: no cold section (5)")
    add("--no-onnx", action="store_true", help="leave ONNX Runtime out")
    add("--cache", type=Path, default=None, help="folder for ONNX files; default: a temporary one")
    add("--json", type=Path, default=None, help="write every number there")
    add("--quick", action="store_true", help="images of 96x96, few calls, one cold run")
    add("--optimizer", default="jaxpress:optimize", help="what to measure, `module:function`")
    add("--cold-worker", choices=["jit", "jaxpress"], default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    usual = {"blocks": 4, "calls": 4, "cold_runs": 1} if options.quick else {}
    for key, value in {"blocks": 12, "calls": 8, "cold_runs": 5, **usual}.items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    if options.models == ["all"]:
        options.models = list(zoo.MODELS)
    options.models = options.models or CONVOLUTIONAL
    unknown = {*options.models, *(options.cold_models or [])} - set(zoo.MODELS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(zoo.MODELS)}")
    if options.cold_models is None:
        options.cold_models = [name for name in options.models if name in APPLICATIONS]
    if options.quick and options.size is None:
        options.size = 96
    return options


def main() -> int:
    options = parse()
    if options.cold_worker:
        cold_worker(options.models[0], options)
        return 0
    models = [name for name in options.models if zoo.available(name)]
    data = {"machine": machine_facts(), "warm": [], "cold": []}
    data["warm"] = [measure_warm(name, options) for name in models]
    if options.cold_runs:
        cold = [name for name in options.cold_models if zoo.available(name)]
        data["cold"] = [measure_cold(name, options) for name in cold]
        rows = [
            [
                record["model"],
                *(f"{record['median'][key]:.2f}" for key in ("jit", "jaxpress")),
                f"{record['ratio']:.2f}",
            ]
            for record in data["cold"]
        ]
        print_table(
            f"Cold: seconds to the first result, median of {options.cold_runs}",
            ["", "jit", "jaxpress", "/ jit"],
            rows,
        )
    if options.json:
        write_json(options.json, data)
    return 0 if all(record["agrees"] for record in data["warm"]) else 1


if __name__ == "__main__":
    sys.exit(main())
