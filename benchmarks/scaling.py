"""How the cost of rewriting grows with a graph: stacks of unrolled layers, up to 100,000 equations.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --kinds conv dense --equations 1000 3000 --json out.json

`jax.make_jaxpr`'s own time stands beside, since nothing that starts from a traced function can cost
less. A sweep that is linear shows the same microseconds per equation on every line.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from timing import machine_facts, print_table, write_json

EQUATIONS = [10_000, 30_000, 100_000]
WIDTH = 8
TOKENS, HEADS, FEATURES = 8, 4, 32


def stack(layers: int, kind: str) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """An unrolled stack of layers with weights of their own, and an input for it.

    kind: "transformer" (pre-norm blocks in plain jax.numpy, causal), "dense" (dense, batch norm,
    relu, residual) or "conv" (the same around a 3x3 conv).
    """
    if kind == "transformer":
        return transformer(layers)
    rng = np.random.default_rng(0)
    kernel = (WIDTH, WIDTH) if kind == "dense" else (3, 3, WIDTH, WIDTH)
    x = jax.numpy.ones((1, WIDTH) if kind == "dense" else (1, 4, 4, WIDTH))
    weights = [
        (
            rng.normal(0.0, 0.1, kernel).astype("float32"),
            *(rng.uniform(0.5, 1.5, WIDTH).astype("float32") for _ in range(5)),
        )
        for _ in range(layers)
    ]

    def layer(x, w, b, mean, var, scale, shift):
        if kind == "dense":
            y = x @ w + b
        else:
            numbers = ("NHWC", "HWIO", "NHWC")
            y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers) + b
        y = (y - mean) * jax.lax.rsqrt(var + 1e-5) * scale + shift
        return x + jax.nn.relu(y)

    def fn(x):
        for one in weights:
            x = layer(x, *one)
        return x

    return fn, x


def transformer(layers: int) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """Blocks as a person writes them who uses no library."""
    jnp = jax.numpy
    rng = np.random.default_rng(0)
    shapes = {
        **{
            f"{name}{part}": (FEATURES,)
            for name in ("norm1", "norm2")
            for part in ("_scale", "_bias")
        },
        **dict.fromkeys(("q", "k", "v", "out"), (FEATURES, FEATURES)),
        **{f"{name}_bias": (FEATURES,) for name in ("q", "k", "v", "out")},
        "up": (FEATURES, 4 * FEATURES),
        "up_bias": (4 * FEATURES,),
        "down": (4 * FEATURES, FEATURES),
        "down_bias": (FEATURES,),
    }
    weights = [
        {k: rng.normal(0.0, 0.1, shape).astype("float32") for k, shape in shapes.items()}
        for _ in range(layers)
    ]

    def norm(x, p, name):
        mean = x.mean(-1, keepdims=True)
        var = x.var(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(var + 1e-5) * p[f"{name}_scale"] + p[f"{name}_bias"]

    def block(x, p):
        h = norm(x, p, "norm1")
        split = (*x.shape[:2], HEADS, FEATURES // HEADS)
        q, k, v = ((h @ p[name] + p[f"{name}_bias"]).reshape(split) for name in "qkv")
        logits = jnp.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(FEATURES // HEADS)
        logits = jnp.where(jnp.tril(jnp.ones((TOKENS, TOKENS), bool)), logits, -1e9)
        mixed = jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(logits, -1), v).reshape(x.shape)
        x = x + mixed @ p["out"] + p["out_bias"]
        h = jax.nn.gelu(norm(x, p, "norm2") @ p["up"] + p["up_bias"])
        return x + h @ p["down"] + p["down_bias"]

    def fn(x):
        for one in weights:
            x = block(x, one)
        return x

    return fn, jnp.ones((2, TOKENS, FEATURES))


def count_equations(jaxpr) -> int:
    """Equations, those of bodies included, each body once for every place that it stands at."""
    total = 0
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        total += 1
        for param in eqn.params.values():
            if hasattr(param, "eqns") or hasattr(param, "jaxpr"):
                total += count_equations(param)
    return total


def fresh(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same function as a new object: JAX remembers the jaxpr of a function that it has seen."""
    return lambda *args: fn(*args)


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median time of `run()`, after a first run that fills JAX's caches of small bodies."""
    taken = []
    run()
    for _ in range(repeats):
        gc.collect()
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def measure(equations: int, kind: str, repeats: int) -> dict[str, Any]:
    """Times tracing, capture and rewriting of a stack of about this many equations."""
    import jaxpress as jp

    one = count_equations(jax.make_jaxpr(stack(1, kind)[0])(stack(1, kind)[1]))
    fn, x = stack(max(1, equations // one), kind)
    graph = jp.trace(fn)(x)
    rewritten = jp.passes.inference(graph)
    return {
        "kind": kind,
        "equations": count_equations(jax.make_jaxpr(fn)(x)),
        "rewritten": sum(rewritten.count().values()),
        "make_jaxpr": seconds(lambda: jax.make_jaxpr(fresh(fn))(x), repeats),
        "trace": seconds(lambda: jp.trace(fresh(fn))(x), repeats),
        "passes": seconds(lambda: jp.passes.inference(graph), repeats),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--equations", type=int, nargs="+", default=EQUATIONS)
    kinds = ["transformer", "dense", "conv"]
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=["transformer"])
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, after a first")
    parser.add_argument("--json", type=Path, default=None, help="write every number there")
    options = parser.parse_args()
    records = []
    for kind in options.kinds:
        for equations in options.equations:
            records.append(measure(equations, kind, options.repeats))
            jax.clear_caches()
    rows = [
        [
            r["kind"],
            f"{r['equations']:,}",
            f"{r['rewritten']:,}",
            *(f"{r[key]:.2f}" for key in ("make_jaxpr", "trace", "passes")),
            f"{1e6 * r['passes'] / r['equations']:.0f}",
            f"{r['passes'] / r['make_jaxpr']:.2f}",
        ]
        for r in records
    ]
    print_table(
        "Rewriting unrolled stacks of layers, seconds (jp.trace contains jax.make_jaxpr)",
        [
            "",
            "equations",
            "after",
            "jax.make_jaxpr",
            "jp.trace",
            "passes",
            "us / equation",
            "passes / make_jaxpr",
        ],
        rows,
    )
    if options.json:
        write_json(options.json, {"machine": machine_facts(), "scaling": records})


if __name__ == "__main__":
    main()
