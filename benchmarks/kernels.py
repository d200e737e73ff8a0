"""Every kernel of every named op beside its reference, on the shapes that models have.

    python benchmarks/kernels.py
    python benchmarks/kernels.py --quick
    python benchmarks/kernels.py --ops conv --gradients --json out.json

The preferences in ``passes/select_kernels.py`` are read off this table: a kernel is chosen for an
op where it is no slower on any of these shapes, or where a guard tells the shapes apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from timing import compare, machine_facts, print_table, write_json

from jaxpress import nnops


class Case(NamedTuple):
    """One op on one shape."""

    op: str
    name: str
    shapes: tuple[tuple[int, ...], ...]
    params: dict[str, Any]


def conv_case(
    name: str, size: int, cin: int, cout: int, k: int, stride: int, groups: int, batch: int = 1
) -> Case:
    """A square convolution, ``SAME``."""
    pads = [max((-(-size // stride) - 1) * stride + k - size, 0)] * 2
    pairs = tuple((p // 2, p - p // 2) for p in pads)
    params = {
        "strides": (stride,) * 2,
        "padding": pairs,
        "dilation": (1, 1),
        "groups": groups,
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    }
    return Case("conv", name, ((batch, size, size, cin), (k, k, cin // groups, cout)), params)


def volume_case(name: str, depth: int, size: int, cin: int, cout: int, k: int, stride: int) -> Case:
    """A convolution over three dimensions, batch 1, padded by half the kernel."""
    params = {
        "strides": (stride,) * 3,
        "padding": ((k // 2, k // 2),) * 3,
        "dilation": (1,) * 3,
        "groups": 1,
        "dimension_numbers": ("NDHWC", "DHWIO", "NDHWC"),
    }
    return Case("conv", name, ((1, depth, size, size, cin), (k, k, k, cin, cout)), params)


def pool_case(op: str, name: str, size: int, channels: int, k: int, stride: int) -> Case:
    """A square window, no padding."""
    params = {
        "window_shape": (1, k, k, 1),
        "strides": (1, stride, stride, 1),
        "padding": ((0, 0),) * 4,
        "dilation": (1,) * 4,
    }
    return Case(op, name, ((1, size, size, channels),), params)


CASES = [
    *(
        conv_case(f"depthwise {k}x{k} /{s} {n}x{n}x{c}", n, c, c, k, s, c)
        for n, c, k, s in (
            (112, 32, 3, 1),
            (112, 96, 3, 2),
            (56, 144, 3, 1),
            (28, 192, 3, 1),
            (14, 576, 3, 1),
            (7, 960, 3, 1),
            (14, 480, 5, 1),
            (28, 240, 5, 2),
            (56, 96, 7, 1),
        )
    ),
    *(
        conv_case(f"depthwise {k}x{k} /{s} 8x{n}x{n}x{c}", n, c, c, k, s, c, batch=8)
        for n, c, k, s in ((56, 144, 3, 1), (14, 480, 5, 1))
    ),
    *(
        conv_case(f"pointwise /{s} {n}x{n} {a}->{b}", n, a, b, 1, s, 1)
        for n, a, b, s in (
            (112, 16, 96, 1),
            (56, 64, 256, 1),
            (56, 256, 128, 2),
            (14, 576, 96, 1),
            (7, 320, 1280, 1),
            (7, 2048, 512, 1),
            (1, 1152, 48, 1),
        )
    ),
    *(
        conv_case(f"groups {g} {k}x{k} {n}x{n}x{c}", n, c, c, k, 1, g)
        for n, c, k, g in ((28, 256, 3, 32), (14, 512, 3, 32), (28, 240, 1, 8), (27, 96, 5, 2))
    ),
    *(
        conv_case(f"full {k}x{k} /{s} {n}x{n} {a}->{b}", n, a, b, k, s, 1)
        for n, a, b, k, s in (
            (28, 128, 128, 3, 1),
            (14, 256, 256, 3, 1),
            (14, 512, 512, 3, 2),
            (7, 512, 512, 3, 1),
            (2, 512, 512, 3, 1),
            (4, 128, 128, 7, 1),
            (224, 3, 768, 16, 16),
            (56, 96, 192, 2, 2),
        )
    ),
    *(
        volume_case(f"volume {k}x{k}x{k} /{s} {d}x{n}x{n} {a}->{b}", d, n, a, b, k, s)
        for d, n, a, b, k, s in (
            (8, 28, 64, 64, 3, 1),
            (16, 56, 3, 64, 3, 2),
            (32, 32, 1, 16, 3, 1),
        )
    ),
    pool_case("avg_pool", "average 3x3 /1 112x112x64", 112, 64, 3, 1),
    pool_case("avg_pool", "average 2x2 /2 112x112x64", 112, 64, 2, 2),
    pool_case("avg_pool", "average 7x7 /1 14x14x512", 14, 512, 7, 1),
    pool_case("max_pool", "maximum 3x3 /2 112x112x64", 112, 64, 3, 2),
    pool_case("max_pool", "maximum 2x2 /2 112x112x64", 112, 64, 2, 2),
    pool_case("max_pool", "maximum 5x5 /1 28x28x256", 28, 256, 5, 1),
]

QUICK: dict[str, Any] = {"blocks": 3, "calls": 3, "pause": 0.01, "warmup": 1}


def functions(case: Case, gradients: bool) -> tuple[dict[str, Callable[..., Any]], list[jax.Array]]:
    """One compiled function per kernel that applies, and their arguments."""
    op = nnops.registry()[case.op]
    keys = jax.random.split(jax.random.key(0), len(case.shapes))
    arrays = [jax.random.normal(k, s) for k, s in zip(keys, case.shapes, strict=True)]
    static = {**op.defaults, **case.params}
    made = {}
    names = op.names[: len(arrays)]
    for kernel in op.kernels.values():
        if not kernel.applies(static, dict(zip(names, arrays, strict=True))):
            continue

        def run(*xs: Any, kernel: str = kernel.name) -> Any:
            return op.rebind(dict(zip(names, xs, strict=True)), **{**static, "kernel": kernel})

        if gradients:
            places = tuple(range(len(arrays)))
            made[kernel.name] = jax.jit(
                jax.grad(lambda *xs, run=run: jnp.sum(run(*xs) ** 2), argnums=places)
            )
        else:
            made[kernel.name] = jax.jit(run)
    return made, arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ops", nargs="+", default=None, help="only these ops")
    parser.add_argument("--gradients", action="store_true", help="time forward and backward")
    parser.add_argument("--quick", action="store_true", help="nine calls each, for a first look")
    parser.add_argument("--json", type=Path, default=None, help="write every number there")
    options = parser.parse_args()
    rows, records = [], []
    for case in CASES:
        if options.ops and case.op not in options.ops:
            continue
        made, arrays = functions(case, options.gradients)
        result = compare(made, *arrays, **(QUICK if options.quick else {}))
        times = {name: result.times(name) for name in made}
        reference = times["reference"]["median"]
        records.append({"op": case.op, "case": case.name, "times_ms": times})
        for name, t in times.items():
            ratio = reference / t["median"]
            rows.append([f"{case.name} {name}", f"{t['median']:.3f}", f"{ratio:.2f}"])
    title = "Kernels, forward and backward" if options.gradients else "Kernels, forward"
    print_table(title, ["", "median ms", "reference / kernel"], rows)
    if options.json:
        write_json(options.json, {"machine": machine_facts(), "kernels": records})


if __name__ == "__main__":
    main()
