"""The cases that a rule's author easily forgets: what ``check_rule`` tries besides examples."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress.capture import (
    Graph,
    Literal,
    Node,
    PassError,
    RewriteLoopError,
    VerificationError,
    compat,
    trace,
)
from jaxpress.capture.edit import Editor
from jaxpress.passes import Rule, inline, rewrite
from jaxpress.passes.comparison import as_numpy, tolerance_of
from jaxpress.passes.example import Example
from jaxpress.passes.pattern_ops import COMMUTATIVE
from jaxpress.passes.record import Rewrite
from jaxpress.verification import gradient_function, verify

__all__ = [
    "REFUSED",
    "check_batched",
    "check_derivatives",
    "check_mutants",
    "check_second_users",
    "check_values",
    "is_float",
    "rewritten",
]

# What a function may raise that does not take a dtype or a size.
REFUSED = (TypeError, ValueError, IndexError, ZeroDivisionError, NotImplementedError)

# How many inner values, and how many changes of one operation, are tried.
_MOST_INNER, _MOST_CHANGES = 4, 8


def rewritten(rule: Any, graph: Graph) -> tuple[Graph, list[Rewrite]]:
    """The graph after a rule, and what it did.

    Raises:
      VerificationError: the rule fails where it applies, or applies to its own results for ever.
    """
    record: list[Rewrite] = []
    try:
        return rewrite(graph, rule, record=record), record
    except RewriteLoopError as error:
        raise VerificationError(f"{rule!r} applies to its own result: {error}") from error
    except PassError as error:
        raise VerificationError(f"{rule!r} ought to refuse what it cannot do: {error}") from error


def check_values(rule: Rule, graph: Graph, args: Sequence[Any]) -> None:
    """That the graph's values are the same after the rule, of the largest integers too."""
    new = rewritten(rule, graph)[0].validate()
    for given in (args, _extremes(args)):
        before, after = (jax.tree_util.tree_leaves(g(*given)) for g in (graph, new))
        for x, y in zip(before, after, strict=True):
            if not _agree(x, y, graph):
                what = f"{rule!r} changes a value of\n{graph}\nof\n{given}"
                raise VerificationError(f"{what}:\n{x}\n{y}")


def _extremes(args: Sequence[Any]) -> Sequence[Any]:
    """Integers that overflow, in all orders; other arguments as they are."""
    leaves, structure = jax.tree_util.tree_flatten(args)
    if not all(hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.integer) for x in leaves):
        return args

    def change(x: Any, i: int) -> Any:
        least, most = jnp.iinfo(x.dtype).min, jnp.iinfo(x.dtype).max
        some = np.roll([least, most, 1, most, least + 1, 2], i)[: x.size]
        return x.ravel().at[: some.size].set(some.astype(x.dtype)).reshape(x.shape)

    return structure.unflatten([change(jnp.asarray(x), i) for i, x in enumerate(leaves)])


def check_second_users(rule: Rule, graph: Graph, args: Sequence[Any], made: Rewrite) -> None:
    """Each value inside the match, in turn, as a result of its own."""
    assert graph.signature is not None
    flat = graph.signature.flatten(tuple(args), {})
    here = set(graph.nodes)
    inner = [
        v
        for node in made.before
        if node in here
        for v in node.outputs
        if not any(v is old for old, _ in made.replaced)
        and not any(v is out for out in graph.outputs)
    ]
    for value in inner[:_MOST_INNER]:
        both = graph.with_parts(outputs=(*graph.outputs, value), signature=None)
        new, again = rewritten(rule, both)
        if not again:
            continue
        if not rule.shared and any(_swallows(r, value, both) for r in again):
            raise VerificationError(
                f"{rule!r} swallows {value!r}, which is used elsewhere as well, in\n{both}"
            )
        for x, y in zip(both(*flat), new.validate()(*flat), strict=True):
            if not _agree(x, y, graph):
                raise VerificationError(f"{rule!r} changes a value where {value!r} is a result too")


def check_mutants(rule: Rule, graph: Graph, args: Sequence[Any], made: Rewrite) -> None:
    """Each operation of the match, in turn, changed a little: no longer what it was."""
    assert graph.signature is not None
    flat = graph.signature.flatten(tuple(args), {})
    if not set(made.before) <= set(graph.nodes):  # inside a plain call, where nothing is changed
        graph = inline(graph)
        again = rewritten(rule, graph)[1]
        made = again[0] if again else made
    here = set(graph.nodes)
    # A number may be broadcast before it takes part.
    matched = [node for node in made.before if node in here and not node.effects]
    makers = [graph.producer(v) for n in matched for v in n.inputs]
    spread = [p for p in makers if p is not None and _is_spread_number(p)]
    for node in dict.fromkeys((*matched, *spread)):
        for what, fn in itertools.islice(_changes(node), _MOST_CHANGES):
            editor = Editor(graph)
            try:
                editor.replace(node, fn)
                mutant = editor.finish().with_parts(signature=None)
                before = mutant(*flat)
            except Exception:  # of JAX: there is no such operation, whatever it calls that
                continue
            new, again = rewritten(rule, mutant)
            if not again:
                continue
            for x, y in zip(before, new.validate()(*flat), strict=True):
                if not _agree(x, y, mutant):
                    raise VerificationError(f"{rule!r} takes {what}: {again[0]}, in\n{mutant}")


def _is_spread_number(node: Node) -> bool:
    return node.op == "broadcast_in_dim" and node.inputs[0].shape == ()


# Functions that no rule is about, by the number of their operands.
_OTHERS = {1: jax.lax.cbrt, 2: jax.lax.atan2}
# Parameters that do not say what is computed, or that others depend on.
_KEPT = frozenset({"indices_are_sorted", "unique_indices", "linear", "length", "unroll", "jaxpr"})


def _changes(node: Node) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Other operations of the same operands, as functions, and what was changed."""
    other = _OTHERS.get(len(node.inputs))
    types = {(v.shape, v.dtype) for v in (*node.inputs, *node.outputs)}
    if other is not None and len(types) == 1 and is_float(node.output.aval):
        yield f"{other.__name__} for {node.op}", other
    inputs = {(v.shape, v.dtype) for v in node.inputs}
    if len(node.inputs) == 2 and len(inputs) == 1 and node.op not in COMMUTATIVE:
        yield f"one operand of {node.op} for the other", lambda a, b: _bind(node, {}, a, b)
    for i, v in enumerate(node.inputs):
        if isinstance(v, Literal) and v.shape == () and jnp.issubdtype(v.dtype, jnp.floating):
            for number in (-v.val - 1, v.val + 1):
                yield (
                    f"{number:g} in {node.op} for {v.val:g}",
                    lambda *operands, i=i, new=number: _bind(
                        node, node.params, *_with_number(operands, i, new)
                    ),
                )
    if node.op == "convert_element_type" and is_float(node.output.aval):
        yield "a conversion that rounds", lambda x: _bind(node, node.params, x.astype("int8"))
    for key, value in node.params.items():
        if key in _KEPT or key.startswith(("num_", "_")) or key.endswith("_nconsts"):
            continue
        for changed in _other_values(value):
            yield (
                f"{key}={changed!r} of {node.op} for {value!r}",
                lambda *operands, new={key: changed}: _bind(node, new, *operands),
            )


def _with_number(operands: Sequence[Any], i: int, number: Any) -> list[Any]:
    return [*operands[:i], np.asarray(number, operands[i].dtype)[()], *operands[i + 1 :]]


def _bind(node: Node, params: dict[str, Any], *operands: Any) -> Any:
    given = operands if params else operands[::-1]
    return compat.bind(node.primitive, given, {**node.params, **params})


def _other_values(value: Any) -> Iterator[Any]:
    """What a parameter may be instead: a flag turned, a number moved, an order turned."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
        yield value - 1
    elif isinstance(value, tuple) and value and all(type(x) is int for x in value):
        if value != value[::-1]:
            yield _like(value, value[::-1])
        yield _like(value, (value[0] + 1, *value[1:]))
        yield _like(value, (*value[:-1], value[-1] - 1))
    elif isinstance(value, tuple):
        for i, part in enumerate(value):
            for other in _other_values(part):
                yield _like(value, (*value[:i], other, *value[i + 1 :]))


def _like(old: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[Any, ...]:
    return type(old)(*new) if hasattr(old, "_fields") else new


def check_derivatives(
    rule: Rule, graph: Graph, args: Sequence[Any], large: Sequence[Any], *, second: bool = True
) -> None:
    """That the gradient, and its own derivative, are the same after the rule, at kinks too.

    In the type of the arguments: in float64 a kink is at another number than its rounded one. Of
    ``large`` arguments, that a gradient which is a number stays one. That what can be
    differentiated forwards still can.
    """
    leaves = jax.tree_util.tree_leaves(args)
    if not leaves or not (all if second else any)(map(is_float, leaves)):
        return

    def compiled(f: Callable[..., Any]) -> Callable[..., Any]:
        gradient = gradient_function(f, tuple(args), {})
        if not second:
            return jax.jit(lambda *a: (gradient(*a),))
        return jax.jit(lambda *a: jax.jvp(gradient, a, jax.tree_util.tree_map(jnp.ones_like, a)))

    new = rewritten(rule, graph)[0]
    before, after = compiled(graph), compiled(new)
    try:
        wanted = before(*args)
    except REFUSED:
        return  # it has none
    if all(map(is_float, leaves)):
        _check_forwards(rule, graph, new, tuple(args))
    # Differentiated twice, and by other equations, it is rounded otherwise each time.
    kinds = (("gradient", 1e-3), ("second derivative", 1e-2))
    for (name, loose), want, got in zip(kinds, wanted, after(*args), strict=False):
        for x, y in zip(want, got, strict=True):
            room = loose * (1e-2 + np.max(np.abs(x), where=np.isfinite(x), initial=0.0))
            if not np.allclose(x, y, rtol=0.0, atol=room, equal_nan=True):
                raise VerificationError(
                    f"{rule!r} changes the {name} of\n{graph}\nat\n{args}:\n{x}\n{y}"
                )
    for x, y in zip(before(*large)[0], after(*large)[0], strict=True):
        if bool(jnp.any(jnp.isfinite(x) & ~jnp.isfinite(y))):
            what = f"{rule!r} makes NaN or infinity of the gradient of\n{graph}\nat\n{large}"
            raise VerificationError(f"{what}:\n{x}\n{y}")


def _check_forwards(rule: Rule, old: Graph, new: Graph, args: tuple[Any, ...]) -> None:
    """That ``jax.jvp`` takes the one if it takes the other."""
    for graph in (old, new):
        try:
            jax.jit(lambda *a, graph=graph: jax.jvp(graph, a, a)).lower(*args)
        except REFUSED as error:
            if graph is new:
                raise VerificationError(
                    f"{rule!r} leaves\n{new}\nwithout a forward derivative: {error}"
                ) from error
            return


def _swallows(rewrite: Rewrite, value: Any, graph: Graph) -> bool:
    maker = graph.producer(value)
    roots = {graph.producer(old) for old, _ in rewrite.replaced}
    return maker in rewrite.before and maker not in roots


def check_batched(rule: Rule, made: Example) -> None:
    """The example under ``vmap``: its graph is another one, and the rule may apply there too."""
    if not made.args or not all(hasattr(x, "shape") for x in made.args):
        return
    many = tuple(jnp.stack([jnp.asarray(x)] * 2) for x in made.args)
    fn = jax.vmap(made.fn)
    graph = trace(fn)(*many)
    new, record = rewritten(rule, graph)
    if record:
        verify(fn, new.validate())(*many)


def _agree(x: Any, y: Any, graph: Graph) -> bool:
    """Whether two results differ by rounding only, in the narrowest type that the graph has."""
    x, y = as_numpy(x), as_numpy(y)
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return bool(np.array_equal(x, y))
    types = {v.dtype for node in graph.walk() for v in node.inputs if v.dtype is not None}
    tolerance = max(tolerance_of(d) for d in (*types, x.dtype) if jnp.issubdtype(d, jnp.inexact))
    wide = np.complex128 if x.dtype.kind == "c" else np.float64
    a, b = x.astype(wide), y.astype(wide)
    # Where the result is zero, an absolute error is all there is.
    room = 2 * tolerance * (1e-2 + np.max(np.abs(a[np.isfinite(a)]), initial=0.0))
    return bool(np.allclose(a, b, rtol=0.0, atol=room, equal_nan=True))


def is_float(x: Any) -> bool:
    """Whether an argument is an array of floating-point numbers."""
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
