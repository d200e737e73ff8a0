"""Arguments that a pass adds to a function: masks, lengths, random keys.

A new argument is a keyword argument of the new graph: what was ``graph(x)`` is called as
``graph(x, lengths=n)``. A :class:`~jaxpress.passes.Pass` that adds some says so by
``new_arguments=("lengths",)``; then what ``optimize`` gives takes them too, and does not hand them
to the function that it traces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
from jax.core import ShapedArray

from jaxpress.capture import Graph, PassError, Value

__all__ = ["add_arguments"]


def add_arguments(
    graph: Graph, arguments: Mapping[str, Any], *, weights: bool = False
) -> tuple[Graph, dict[str, Any]]:
    """A graph that takes further keyword arguments, which nothing uses yet.

    Args:
      graph: a whole function's graph, not a body.
      arguments: by name, pytrees of arrays, ``jax.ShapeDtypeStruct`` or abstract values; only
        their types matter.
      weights: whether the new arguments are known before the data, as those are that
        ``weight_argnums`` declares.

    Returns:
      The graph, and for each name the pytree of its new values. Use them in an editor on the
      returned graph.

    Raises:
      PassError: the graph is a body, or has an argument of such a name.

    >>> import jax, jax.numpy as jnp
    >>> from jaxpress.capture import trace
    >>> graph = trace(lambda x: x * 2)(1.0)
    >>> graph, new = add_arguments(graph, {"offset": jax.ShapeDtypeStruct((), jnp.float32)})
    >>> with graph.edit() as editor:
    ...     (mul,) = graph.find("mul")
    ...     outs = editor.emit(lambda x, o: x * 2 + o, (mul.inputs[0], new["offset"]), at=mul)
    ...     _ = editor.substitute(mul, outs)
    >>> float(editor.graph(3.0, offset=jnp.float32(1)))
    7.0
    """
    signature = graph.signature
    if signature is None:
        raise PassError(f"{graph.name!r} is a body: only a whole function can take new arguments")
    args, kwargs = jax.tree_util.tree_unflatten(signature.in_tree, graph.inputs)
    positional, named = jax.tree_util.tree_unflatten(signature.in_tree, signature.arg_names)
    for name in arguments:
        taken = name in kwargs or name in signature.static_kwargs
        if taken or any(given.split("[")[0] == name for given in signature.arg_names):
            raise PassError(
                f"{signature.function} has an argument {name!r} already; choose another name"
            )
    used = {v.name for v in (*graph.inputs, *graph.constants)}
    new: dict[str, Any] = {}
    names: dict[str, Any] = {}
    for name, tree in arguments.items():
        leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
        values, labels = [], []
        for path, leaf in leaves:
            label = name + jax.tree_util.keystr(path)
            labels.append(label)
            while label in used:
                label += "'"
            used.add(label)
            values.append(Value(label, _aval(leaf)))
        new[name] = jax.tree_util.tree_unflatten(structure, values)
        names[name] = jax.tree_util.tree_unflatten(structure, labels)
    inputs, in_tree = jax.tree_util.tree_flatten((args, {**kwargs, **new}))
    arg_names = jax.tree_util.tree_leaves((positional, {**named, **names}))
    added = frozenset(jax.tree_util.tree_leaves(new)) if weights else frozenset()
    graph = graph.with_parts(
        inputs=inputs,
        weight_inputs=graph.weight_inputs | added,
        signature=replace(signature, in_tree=in_tree, arg_names=tuple(arg_names)),
    )
    return graph, new


def _aval(leaf: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return ShapedArray(leaf.shape, leaf.dtype)
    return leaf if hasattr(leaf, "weak_type") and not hasattr(leaf, "aval") else jax.typeof(leaf)
