"""Every named op on eight devices; run as a script, it prints what fails as JSON.

A process of its own, since the number of devices is fixed when JAX starts. All ops go into one
program for each way to use the devices, which takes a tenth of the time of a program each.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from samples import EXAMPLES, SAMPLES, Sample, as_list, loss, plain

Functions = dict[str, Callable[..., Any]]
Arguments = dict[str, list[Any]]


def specs(sample: Sample) -> list[PartitionSpec]:
    """The examples over the devices; all else on each of them."""
    return [
        PartitionSpec("d") if i in sample.batched else PartitionSpec()
        for i in range(len(sample.operands))
    ]


def value_and_gradient(f: Callable[..., Any], sample: Sample) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        reals = [args[i] for i in sample.floats()]
        if not reals:
            return f(*args), None
        return f(*args), jax.grad(loss(f, sample, args), range(len(reals)))(*reals)

    return run


class Failures(dict[str, str]):
    """The first failure of each op."""

    def attempt(self, what: str, name: str, action: Callable[..., Any], *args: Any) -> Any:
        try:
            return action(*args)
        except Exception:
            self.setdefault(name, f"{what}: {traceback.format_exc(limit=-4)}")
            return None

    def run(self, what: str, functions: Functions, args: Arguments) -> dict[str, Any]:
        """All results, those that can be traced in one program."""
        good = {
            n: f for n, f in functions.items() if self.attempt(what, n, jax.eval_shape, f, *args[n])
        }
        program = jax.jit(lambda args: {n: f(*args[n]) for n, f in good.items()})
        return program({n: args[n] for n in good})

    def compare(self, what: str, got: dict[str, Any], want: dict[str, Any]) -> None:
        for name, result in got.items():
            self.attempt(what, name, agree, result, want[name])


def agree(got: Any, want: Any) -> None:
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5)


def on_mesh(mesh: Any) -> Arguments:
    return {
        n: [
            jax.device_put(a, NamedSharding(mesh, spec))
            for a, spec in zip(s.arrays(), specs(s), strict=True)
        ]
        for n, s in SAMPLES.items()
    }


def same_shardings(ours: Callable[..., Any], args: list[Any]) -> None:
    """Where the types say how results lie, they say the same of the op as of its reference."""
    got, want = (jax.jit(f).trace(*args).jaxpr.out_avals for f in (ours, plain(ours)))
    assert [a.sharding.spec for a in got] == [a.sharding.spec for a in want], (got, want)


def main() -> None:
    assert len(jax.devices()) == EXAMPLES
    failures = Failures()
    ops = {n: as_list(s.call) for n, s in SAMPLES.items()}
    with_gradients = {n: value_and_gradient(f, SAMPLES[n]) for n, f in ops.items()}
    want = failures.run("one device", with_gradients, {n: s.arrays() for n, s in SAMPLES.items()})

    auto, explicit = (
        jax.make_mesh((EXAMPLES,), ("d",), axis_types=(kind,))
        for kind in (AxisType.Auto, AxisType.Explicit)
    )
    got = failures.run("Auto axes", ops, on_mesh(auto))
    failures.compare("Auto axes", got, {n: w[0] for n, w in want.items()})

    with jax.set_mesh(explicit):
        args = on_mesh(explicit)
        got = failures.run("Explicit axes", with_gradients, args)
        failures.compare("Explicit axes", got, want)
        for name in got:
            failures.attempt("Explicit axes", name, same_shardings, ops[name], args[name])

    mapped = {}
    for name, sample in SAMPLES.items():
        if not sample.mixes:
            f = jax.shard_map(
                ops[name], mesh=auto, in_specs=tuple(specs(sample)), out_specs=PartitionSpec("d")
            )
            mapped[name] = value_and_gradient(f, sample)
    got = failures.run("shard_map", mapped, {n: SAMPLES[n].arrays() for n in mapped})
    failures.compare("shard_map", got, want)
    json.dump({"ops": len(ops), "failures": failures}, sys.stdout)


if __name__ == "__main__":
    main()
