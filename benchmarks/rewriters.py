"""The same rewrite by three rewriters: jaxpress, torch.fx's replace_pattern, onnxscript's rewriter.

    python benchmarks/rewriters.py
    python benchmarks/rewriters.py --operations 300 1000 --json out.json

Each is given a chain of `x * sigmoid(x) + 1`, as many operations in each, and makes one operation
of the first two wherever they stand. Only the rewriting is timed: the graph is ready before, and
so is the pattern where the library lets one prepare it. Needs torch and onnxscript.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timing import machine_facts, print_table, write_json

OPERATIONS = [300, 1000, 3000]
# One link of the chain: sigmoid, mul, add.
LINK = 3


def with_jaxpress(links: int, traced: bool) -> tuple[Callable[[], Any], Callable[[Any], int]]:
    """A run of the rewrite, and how often its result has the new operation."""
    import jax
    import jax.numpy as jnp

    import jaxpress as jp
    from jaxpress.passes import Rule, any_value, op

    def chain(x):
        for _ in range(links):
            x = x * jax.nn.sigmoid(x) + 1.0
        return x

    pattern = op("mul", any_value("x"), op("logistic", any_value("x")))
    rule = Rule("silu", (lambda x: x * jax.nn.sigmoid(x)) if traced else pattern, jp.nnops.silu)
    graph = jp.trace(chain)(jnp.ones(4))
    assert len(graph) == LINK * links
    return lambda: jp.passes.rewrite(graph, rule), lambda new: len(new.find("silu"))


def with_torch(links: int) -> tuple[Callable[[], Any], Callable[[Any], int]]:
    """torch.fx changes a module in place, so each run is given a copy of its own."""
    import copy

    import torch

    class Chain(torch.nn.Module):
        def forward(self, x):
            for _ in range(links):
                x = x * torch.sigmoid(x) + 1.0
            return x

    def pattern(x):
        return x * torch.sigmoid(x)

    module = torch.fx.symbolic_trace(Chain())
    silu = torch.nn.functional.silu

    def run():
        found = torch.fx.replace_pattern(fresh.pop(), pattern, lambda x: silu(x))
        assert len(found) == links
        return module_of

    fresh: list[Any] = []
    module_of: list[Any] = []

    def prepare():
        module_of[:] = [copy.deepcopy(module)]
        fresh[:] = module_of

    run.prepare = prepare  # type: ignore[attr-defined]
    return run, lambda made: sum(node.target is silu for node in made[0].graph.nodes)


def with_onnxscript(links: int) -> tuple[Callable[[], Any], Callable[[Any], int]]:
    """The model is a protobuf; rewriting starts from it, as there is no other form to keep."""
    import onnx
    import onnxscript.ir as ir
    from onnxscript.rewriter import pattern as orp
    from onnxscript.rewriter import rewrite

    nodes, value = [], "x0"
    for i in range(links):
        nodes.append(onnx.helper.make_node("Sigmoid", [value], [f"s{i}"]))
        nodes.append(onnx.helper.make_node("Mul", [value, f"s{i}"], [f"m{i}"]))
        nodes.append(onnx.helper.make_node("Add", [f"m{i}", "one"], [f"x{i + 1}"]))
        value = f"x{i + 1}"
    make = onnx.helper.make_tensor_value_info
    one = onnx.helper.make_tensor("one", onnx.TensorProto.FLOAT, [1], [1.0])
    graph = onnx.helper.make_graph(
        nodes, "chain", [make("x0", 1, [4])], [make(value, 1, [4])], [one]
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])

    def silu_pattern(op, x):
        return op.Mul(x, op.Sigmoid(x))

    def silu(op, x):
        return op.Silu(x, _domain="bench")

    rule = orp.RewriteRule(silu_pattern, silu)
    models: list[Any] = []

    def run():
        return rewrite(models.pop(), pattern_rewrite_rules=[rule])

    run.prepare = lambda: models.append(ir.from_proto(proto))  # type: ignore[attr-defined]
    return run, lambda model: sum(node.op_type == "Silu" for node in model.graph)


REWRITERS: dict[str, Callable[[int], tuple[Callable[[], Any], Callable[[Any], int]]]] = {
    "jaxpress, pattern of operations": lambda n: with_jaxpress(n, traced=False),
    "jaxpress, pattern from a function": lambda n: with_jaxpress(n, traced=True),
    "torch.fx replace_pattern": with_torch,
    "onnxscript rewriter": with_onnxscript,
}


def measure(name: str, operations: int, repeats: int) -> dict[str, Any]:
    """The median time of a rewrite, after a first one that fills caches."""
    links = operations // LINK
    run, count = REWRITERS[name](links)
    taken = []
    for _ in range(repeats + 1):
        getattr(run, "prepare", lambda: None)()
        gc.collect()
        start = time.perf_counter()
        result = run()
        taken.append(time.perf_counter() - start)
        assert count(result) == links, f"{name} made {count(result)} rewrites of {links}"
    seconds = statistics.median(taken[1:])
    return {"rewriter": name, "operations": LINK * links, "rewrites": links, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operations", type=int, nargs="+", default=OPERATIONS)
    parser.add_argument("--rewriters", nargs="+", choices=list(REWRITERS), default=list(REWRITERS))
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, after a first")
    parser.add_argument("--json", type=Path, default=None, help="write every number there")
    options = parser.parse_args()
    records = [
        measure(name, operations, options.repeats)
        for name in options.rewriters
        for operations in options.operations
    ]
    rows = [
        [
            r["rewriter"],
            f"{r['operations']:,}",
            f"{r['rewrites']:,}",
            f"{1e3 * r['seconds']:.1f}",
            f"{1e6 * r['seconds'] / r['operations']:.1f}",
        ]
        for r in records
    ]
    columns = ["", "operations", "rewrites", "ms", "us / operation"]
    print_table("x * sigmoid(x) -> silu(x), wherever it stands", columns, rows)
    if options.json:
        write_json(options.json, {"machine": machine_facts(), "rewriters": records})


if __name__ == "__main__":
    main()
