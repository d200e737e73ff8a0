"""Recurrent ops beside loops written by hand with `jax.lax.scan`, forward and with gradients.

    python benchmarks/recurrent.py
    python benchmarks/recurrent.py --unroll 1 2 4 8 --json out.json
    python benchmarks/recurrent.py --gradients

The loop by hand is what a careful person writes: the input projection of all steps is one product
ahead of the loop, and the loop has one product. The ops' ``unroll`` is read off this table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from timing import compare, machine_facts, print_table, write_json

from jaxpress import nnops

STEPS, HIDDEN = 128, 256
HAND = "lax.scan by hand"
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def lstm_by_hand(x: Any, h: Any, c: Any, w_ih: Any, w_hh: Any, b: Any) -> Any:
    """The loop that `nnops.lstm` is measured against."""

    def step(state: Any, z: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(z + h @ w_hh, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return lax.scan(step, (h, c), jnp.swapaxes(x, 0, 1) @ w_ih + b)[1].swapaxes(0, 1)


def gru_by_hand(x: Any, h: Any, w_ih: Any, w_hh: Any, b: Any) -> Any:
    """The loop that `nnops.gru` is measured against."""

    def step(h: Any, z: Any) -> Any:
        x_r, x_z, x_n = jnp.split(z, 3, axis=-1)
        h_r, h_z, h_n = jnp.split(h @ w_hh, 3, axis=-1)
        r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
        n = jnp.tanh(x_n + r * h_n)
        h = (1 - z) * n + z * h
        return h, h

    return lax.scan(step, h, jnp.swapaxes(x, 0, 1) @ w_ih + b)[1].swapaxes(0, 1)


def rnn_by_hand(x: Any, h: Any, w_ih: Any, w_hh: Any, b: Any) -> Any:
    """The loop that `nnops.rnn` is measured against."""

    def step(h: Any, z: Any) -> Any:
        h = jnp.tanh(z + h @ w_hh)
        return h, h

    return lax.scan(step, h, jnp.swapaxes(x, 0, 1) @ w_ih + b)[1].swapaxes(0, 1)


BY_HAND = {"lstm": lstm_by_hand, "gru": gru_by_hand, "rnn": rnn_by_hand}


def arguments(op: str, batch: int) -> list[jax.Array]:
    """x, the states, w_ih, w_hh and b, as a freshly made layer has them."""
    width = GATES[op] * HIDDEN
    keys = iter(jax.random.split(jax.random.key(0), 6))
    bound = HIDDEN**-0.5
    states = [jnp.zeros((batch, HIDDEN))] * (2 if op == "lstm" else 1)
    weights = [
        jax.random.uniform(next(keys), shape, minval=-bound, maxval=bound)
        for shape in ((HIDDEN, width), (HIDDEN, width), (width,))
    ]
    return [jax.random.normal(next(keys), (batch, STEPS, HIDDEN)), *states, *weights]


def functions(op: str, unroll: list[int], gradients: bool) -> dict[str, Callable[..., Any]]:
    """The loop by hand, and the op once for each ``unroll``."""
    made: dict[str, Callable[..., Any]] = {HAND: BY_HAND[op]}
    for n in unroll:
        made[f"nnops.{op}, unroll {n}"] = lambda *a, n=n: getattr(nnops, op)(*a, unroll=n)[0]
    if not gradients:
        return {name: jax.jit(f) for name, f in made.items()}
    places = tuple(range(len(arguments(op, 1))))
    return {
        name: jax.jit(jax.grad(lambda *a, f=f: jnp.sum(f(*a) ** 2), places))
        for name, f in made.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ops", nargs="+", default=list(GATES), choices=GATES)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--unroll", nargs="+", type=int, default=[1])
    parser.add_argument("--gradients", action="store_true", help="time forward and backward")
    parser.add_argument("--json", type=Path, default=None, help="write every number there")
    options = parser.parse_args()
    rows, records = [], []
    for op in options.ops:
        for batch in options.batch:
            made = functions(op, options.unroll, options.gradients)
            result = compare(made, *arguments(op, batch))
            times = {name: result.times(name) for name in made}
            ratios = {name: 1.0 if name == HAND else result.ratio(HAND, name) for name in made}
            records.append({"op": op, "batch": batch, "times_ms": times, "ratios": ratios})
            for name, t in times.items():
                row = [f"{op}, batch {batch}: {name}", f"{t['median']:.3f}"]
                rows.append([*row, f"{ratios[name]:.2f}"])
    what = "forward and backward" if options.gradients else "forward"
    title = f"{STEPS} steps, hidden {HIDDEN}, {what}"
    print_table(title, ["", "median ms", "by hand / this"], rows)
    if options.json:
        facts = {"machine": machine_facts(), "steps": STEPS, "hidden": HIDDEN}
        write_json(options.json, {**facts, "gradients": options.gradients, "cases": records})


if __name__ == "__main__":
    main()
