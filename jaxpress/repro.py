"""A script that runs two versions of a piece of a graph on saved values, and shows how they differ.

The script needs nothing but jax and jaxpress. The pieces are written out as operations where all of
their parameters can be; otherwise they are stored as StableHLO, as ``jax.export`` makes it. Values
are stored as bytes, so that no type is lost, and nothing is ever unpickled.
"""

from __future__ import annotations

import enum
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress import nnops
from jaxpress.capture import Graph, Literal, Node, Value
from jaxpress.capture.evaluate import evaluate
from jaxpress.viz.write import write_file

__all__ = ["Region", "write_repro"]


class Region(NamedTuple):
    """Two versions of a piece of a graph, and what they are run on.

    Attributes:
      before, after: the two; their inputs are all of the region's, in the same order.
      arrays: a value for each input.
    """

    before: Graph
    after: Graph
    arrays: tuple[Any, ...]

    @classmethod
    def of(
        cls,
        old: Graph,
        new: Graph,
        values: Callable[[Sequence[Value]], list[Any]],
        new_values: Callable[[Sequence[Value]], list[Any]] | None = None,
    ) -> Region:
        """From pieces whose inputs are not known yet: what they use and do not make."""
        mine = _free_values(old)
        more = [v for v in _free_values(new) if v not in mine]
        arrays = [*values(mine), *(new_values or values)(more)]
        inputs = (*mine, *more)
        return cls(old.with_parts(inputs=inputs), new.with_parts(inputs=inputs), tuple(arrays))

    @classmethod
    def whole(cls, old: Graph, new: Graph, flat: Sequence[Any]) -> Region:
        """From two whole graphs of the same inputs."""
        return cls(old, new, tuple(flat))


def _free_values(graph: Graph) -> list[Value]:
    made = {v for node in graph.nodes for v in node.outputs}
    used = [v for node in graph.nodes for v in node.inputs]
    return [
        v
        for v in dict.fromkeys((*used, *graph.outputs))
        if v not in made and not isinstance(v, Literal)
    ]


def write_repro(path: Path, region: Region, title: str, function: str, tolerance: float) -> None:
    """Write the script, and its values beside it; each file whole or not at all.

    Args:
      path: the script; the values go into a file of the same name that ends in ``.npz``.
      region: what to run.
      title: what was found.
      function: the function's name.
      tolerance: the largest relative difference that is put down to rounding.

    Raises:
      OutputError: a file cannot be written.
    """
    stored: dict[str, np.ndarray] = {}
    inputs = []
    for i, array in enumerate(region.arrays):
        raw, kind, shape = _as_bytes(array)
        stored[f"x{i}"] = raw
        inputs.append((f"x{i}", kind, shape))
    code = []
    for name, graph in (("before", region.before), ("after", region.after)):
        text = _source(graph, name)
        if text is None:
            stored[name] = np.frombuffer(_exported(graph, region.arrays), np.uint8)
            text = f"{name} = jax.export.deserialize(bytearray(DATA[{name!r}].tobytes())).call\n"
        code.append(text)
    listing = [
        f"{name}: {line}"
        for name, graph in (("before", region.before), ("after", region.after))
        for line in graph.text(max_nodes=40).splitlines()
    ]
    # Names and lines of the user's are written as strings, whatever is in them.
    script = _SCRIPT.format(
        title=_lines([f"jaxpress.bisect of {function}", *title.splitlines(), "", *listing]),
        inputs=_lines(inputs),
        before=code[0],
        after=code[1],
        tolerance=float(tolerance),
    )
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **stored)  # type: ignore[arg-type]
    write_file(path.with_suffix(".npz"), packed.getvalue())
    write_file(path, script.encode())


_SCRIPT = """\
# Two versions of a piece of a graph that ought to give the same. Written by jaxpress.bisect.

import sys
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress import nnops

WHAT = [
{title}]

# Name, dtype (or the kind of random key) and shape of each value.
INPUTS = [
{inputs}]

with np.load(Path(__file__).with_suffix(".npz"), allow_pickle=False) as file:
    DATA = {{name: file[name] for name in file.files}}


def load(name, kind, shape):
    if kind.startswith("key<"):
        bits = np.frombuffer(DATA[name].tobytes(), np.uint32)
        bits = bits.reshape(*shape, -1)
        return jax.random.wrap_key_data(jnp.asarray(bits), impl=kind[4:-1])
    return jnp.asarray(np.frombuffer(DATA[name].tobytes(), jnp.dtype(kind)).reshape(shape))


{before}

{after}

def main():
    print("\\n".join(WHAT))
    arrays = [load(*entry) for entry in INPUTS]
    worst = 0.0
    for i, (a, b) in enumerate(zip(before(*arrays), after(*arrays), strict=True)):
        a, b = np.asarray(a), np.asarray(b)
        wide = np.complex128 if a.dtype.kind == "c" else np.float64
        a, b = a.astype(wide), b.astype(wide)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        gap = np.where(same, 0.0, np.abs(a - b))
        gap = np.where(np.isnan(gap), np.inf, gap)
        finite = np.abs(a[np.isfinite(a)])
        error = float(gap.max(initial=0.0)) / (float(finite.max(initial=0.0)) or 1.0)
        place = np.unravel_index(int(gap.argmax()), gap.shape) if gap.size else ()
        print(f"output {{i}}: largest difference {{error:.3e}} of the largest entry")
        if gap.size:
            print(f"  at {{tuple(map(int, place))}}: {{a[place]}} became {{b[place]}}")
        worst = max(worst, error)
    allowed = {tolerance!r}
    print("they differ" if worst > allowed else "they agree", f"(allowed {{allowed:.1e}})")
    return int(worst > allowed)


if __name__ == "__main__":
    sys.exit(main())
"""


def _lines(items: Sequence[Any]) -> str:
    return "".join(f"    {item!r},\n" for item in items)


def _as_bytes(array: Any) -> tuple[np.ndarray, str, tuple[int, ...]]:
    """An array as bytes, its type, and its shape."""
    if jnp.issubdtype(getattr(array, "dtype", np.float32), jax.dtypes.prng_key):
        bits = np.asarray(jax.random.key_data(array))
        kind = f"key<{jax.random.key_impl(array)}>"
        return np.frombuffer(bits.tobytes(), np.uint8), kind, tuple(array.shape)
    x = np.asarray(array)
    return np.frombuffer(x.tobytes(), np.uint8), x.dtype.name, tuple(x.shape)


def _exported(graph: Graph, arrays: Sequence[Any]) -> bytes:
    """The piece as StableHLO that every later jax can load for a while."""
    from jax import export

    def run(*flat: Any) -> list[Any]:
        return evaluate(graph, flat)

    return bytes(export.export(jax.jit(run))(*arrays).serialize())


def _source(graph: Graph, name: str) -> str | None:
    """The piece as Python, one line an operation; ``None`` if a parameter cannot be written."""
    if graph.constants or graph.prologue is not None:
        return None
    names = {v: f"x{i}" for i, v in enumerate(graph.inputs)}

    def operand(v: Value) -> str:
        if not isinstance(v, Literal):
            return names[v]
        return f"jnp.asarray({_spelled(np.asarray(v.val).item())}, {v.dtype.name!r})"

    lines = [f"def {name}({', '.join(names.values())}):"]
    for node in graph.nodes:
        primitive = _primitive(node)
        params = {k: _spelled(v) for k, v in node.params.items()}
        if primitive is None or node.subgraphs or None in params.values():
            return None
        for v in node.outputs:
            names[v] = f"v{len(names)}"
        made = ", ".join(names[v] for v in node.outputs)
        given = ", ".join([*map(operand, node.inputs), *(f"{k}={v}" for k, v in params.items())])
        left = f"[{made}]" if node.primitive.multiple_results else made
        lines.append(f"    {left} = {primitive}.bind({given})")
    lines.append(f"    return [{', '.join(map(operand, graph.outputs))}]")
    return "\n".join(lines) + "\n"


def _primitive(node: Node) -> str | None:
    """Python for a node's primitive; ``None`` for one that is not to be had by name."""
    op = nnops.registry().get(node.op)
    for which in ("primitive", "keeping"):
        if op is not None and getattr(op, which) is node.primitive:
            return f"nnops.registry()[{node.op!r}].{which}"
    if node.op.isidentifier() and getattr(lax, f"{node.op}_p", None) is node.primitive:
        return f"lax.{node.op}_p"
    return None


def _spelled(x: Any) -> str | None:
    """A parameter as Python that makes it again; ``None`` if there is no such."""
    if isinstance(x, enum.Enum):
        name = type(x).__name__
        return f"lax.{name}.{x.name}" if getattr(lax, name, None) is type(x) else None
    if x is None or isinstance(x, bool | int | str):
        return repr(x)
    if isinstance(x, np.integer):
        return repr(int(x))
    if isinstance(x, float | np.floating):
        return f"float({str(float(x))!r})"
    if isinstance(x, complex):
        return f"complex({str(x)!r})"
    if isinstance(x, np.dtype):
        return f"jnp.dtype({x.name!r})"
    if isinstance(x, tuple | list):
        return _spelled_sequence(x)
    if isinstance(x, dict):
        items = {_spelled(k): _spelled(v) for k, v in x.items()}
        if None in items or None in items.values():
            return None
        return f"{{{', '.join(f'{k}: {v}' for k, v in items.items())}}}"
    if getattr(lax, type(x).__name__, None) is type(x) and hasattr(x, "__dict__"):
        return _spelled_record(x, vars(x))
    return None


def _spelled_sequence(x: Any) -> str | None:
    if hasattr(x, "_asdict"):
        return _spelled_record(x, x._asdict())
    parts = [_spelled(item) for item in x]
    if None in parts:
        return None
    inner = ", ".join(map(str, parts))
    return f"[{inner}]" if isinstance(x, list) else f"({inner}{',' * (len(parts) == 1)})"


def _spelled_record(x: Any, fields: dict[str, Any]) -> str | None:
    name = type(x).__name__
    parts = {k: _spelled(v) for k, v in fields.items()}
    if getattr(lax, name, None) is not type(x) or None in parts.values():
        return None
    return f"lax.{name}({', '.join(f'{k}={v}' for k, v in parts.items())})"
