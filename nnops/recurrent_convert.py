"""Weights of recurrent layers from other libraries, and back.

Here gates stand in the columns: i, f, g, o for an LSTM, r, z, n for a GRU, as in torch, whose
matrices are turned round. ``weights`` are always the op's keyword arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxpress.nnops.errors import OpError

__all__ = ["recurrent_from", "recurrent_to"]

Arrays = Mapping[str, Any]
Weights = dict[str, Any]


def recurrent_from(library: str, op: str, source: Any, *, suffix: str = "") -> Weights:
    """A recurrent layer's weights, as the op here takes them.

    | library | what ``source`` is |
    | --- | --- |
    | ``"torch"`` | the layer's ``state_dict()``; ``suffix`` such as ``"_l0"``, ``"_l1_reverse"`` |
    | ``"linen"``, or ``"flax"`` | the cell's ``params``, fused or not |
    | ``"nnx"`` | ``nnx.to_pure_dict(nnx.state(cell, nnx.Param))`` |
    | ``"equinox"`` | the cell |
    | ``"haiku"`` | the core's parameters: ``{module name: {name: array}}`` |
    | ``"keras"`` | ``layer.get_weights()``; without bias, pass ``reset_after=False`` yourself |

    What an op must know besides its weights is among them: ``reset_after=False`` for a GRU of
    Haiku, or of Keras where it has one bias; ``activation="relu"`` for Haiku's VanillaRNN. Haiku's
    LSTM adds 1 to its forget gate, which is added to ``b`` here.

    Args:
        library: one of the above.
        op: ``"lstm"``, ``"gru"`` or ``"rnn"``.
        source: the library's own weights; arrays of any kind.
        suffix: what ends torch's names; empty for a cell.

    Returns:
        Keyword arguments of the op: ``w_ih``, ``w_hh``, and ``b``, ``b_hh`` where there are such.

    Raises:
        OpError: the library or op is unknown.

    Example:
        >>> import numpy as np
        >>> from jaxpress import nnops
        >>> source = {"weight_ih_l0": np.ones((8, 3)), "weight_hh_l0": np.ones((8, 2))}
        >>> w = nnops.recurrent_from("torch", "lstm", source, suffix="_l0")
        >>> w["w_ih"].shape, w["w_hh"].shape
        ((3, 8), (2, 8))
    """
    read = _pick(library, op)[0]
    if library == "torch":
        source = {k: source[k + suffix] for k in _TORCH if k + suffix in source}
    return {k: v for k, v in read(op, source).items() if v is not None}


def recurrent_to(library: str, op: str, weights: Arrays, *, suffix: str = "") -> Any:
    """A recurrent op's weights, as another library holds them; see `recurrent_from`.

    Args:
        library: one of those of `recurrent_from`.
        op: ``"lstm"``, ``"gru"`` or ``"rnn"``.
        weights: keyword arguments of the op; biases that are missing become zeros.
        suffix: what ends torch's names.

    Returns:
        What `recurrent_from` takes, but for Equinox: the cell's fields by name. Arrays are JAX's.

    Raises:
        OpError: the library or op is unknown, or the library has no such cell.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> w = {"w_ih": jnp.ones((3, 8)), "w_hh": jnp.ones((2, 8))}
        >>> sorted(nnops.recurrent_to("torch", "lstm", w, suffix="_l0"))
        ['bias_hh_l0', 'bias_ih_l0', 'weight_hh_l0', 'weight_ih_l0']
    """
    write = _pick(library, op)[1]
    after = weights.get("reset_after", True)
    if op == "gru" and library != "keras" and after == (library == "haiku"):
        where = "before" if library == "haiku" else "after"
        raise OpError(
            op,
            f"a GRU of {library} has its reset gate {where} the product, and this one has not",
            mend="no weights of the one are those of the other",
        )
    given = {**weights}
    columns = jnp.shape(given["w_hh"])[1]
    for name in ("b", "b_hh") if op == "gru" else ("b",):
        if given.get(name) is None:
            given[name] = jnp.zeros(columns, jnp.result_type(given["w_hh"]))
    out = write(op, given)
    return {k + suffix: v for k, v in out.items()} if library == "torch" else out


_TORCH = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def _pick(library: str, op: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    if library not in _LIBRARIES or op not in _GATES:
        raise OpError(
            op,
            f"nothing is known of {op!r} of {library!r}",
            mend=f"libraries are {sorted(_LIBRARIES)}, ops {sorted(_GATES)}",
        )
    return _LIBRARIES[library]


def _array(x: Any) -> Any:
    # Flax and NNX wrap arrays in boxes, torch tensors may want a gradient.
    for unwrap in ("detach", "unbox"):
        x = getattr(x, unwrap)() if hasattr(x, unwrap) else x
    return jnp.asarray(x)


def _maybe(source: Arrays, name: str) -> Any:
    value = source.get(name)
    return None if value is None else _array(value)


def _blocks(x: Any, op: str) -> list[Any]:
    return jnp.split(_array(x), _GATES[op], axis=-1)


def _sum(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return a if b is None else b
    return a + b


def _inside(bias: Any, n: Any) -> Any:
    """A recurrent bias of n alone, with zeros for r and z."""
    if n is None:
        return bias
    n = _array(n)
    return jnp.concatenate([jnp.zeros_like(n), jnp.zeros_like(n), n])


def _folded(weights: Arrays) -> tuple[Any, Any]:
    """A GRU's biases with all but that of n inside of the reset gate in one."""
    (b_r, b_z, b_n), (h_r, h_z, h_n) = (_blocks(weights[k], "gru") for k in ("b", "b_hh"))
    return jnp.concatenate([b_r + h_r, b_z + h_z, b_n]), h_n


def _from_torch(op: str, source: Arrays) -> Weights:
    b, b_hh = _maybe(source, "bias_ih"), _maybe(source, "bias_hh")
    out = {"w_ih": _array(source["weight_ih"]).T, "w_hh": _array(source["weight_hh"]).T}
    return {**out, "b": b, "b_hh": b_hh} if op == "gru" else {**out, "b": _sum(b, b_hh)}


def _to_torch(op: str, weights: Arrays) -> dict[str, Any]:
    b = jnp.asarray(weights["b"])
    return {
        "weight_ih": jnp.asarray(weights["w_ih"]).T,
        "weight_hh": jnp.asarray(weights["w_hh"]).T,
        "bias_ih": b,
        "bias_hh": jnp.asarray(weights["b_hh"]) if op == "gru" else jnp.zeros_like(b),
    }


# Linen has a layer for each gate; so has NNX's LSTMCell, where `if` is spelled `if_`.
_LAYERS = {
    "lstm": (("ii", "if", "ig", "io"), ("hi", "hf", "hg", "ho")),
    "gru": (("ir", "iz", "in"), ("hr", "hz", "hn")),
    "rnn": (("i",), ("h",)),
}


def _from_linen(op: str, source: Mapping[str, Arrays]) -> Weights:
    source = {k.rstrip("_"): v for k, v in source.items()}
    of_x, of_h = _LAYERS[op]

    def kernels(names: Sequence[str]) -> Any:
        return jnp.concatenate([_array(source[n]["kernel"]) for n in names], axis=-1)

    def biases(names: Sequence[str]) -> Any:
        found = [_maybe(source[n], "bias") for n in names]
        if all(b is None for b in found):
            return None
        like = next(b for b in found if b is not None)
        return jnp.concatenate([jnp.zeros_like(like) if b is None else b for b in found])

    out = {"w_ih": kernels(of_x), "w_hh": kernels(of_h)}
    b, b_hh = biases(of_x), biases(of_h)
    return {**out, "b": b, "b_hh": b_hh} if op == "gru" else {**out, "b": _sum(b, b_hh)}


def _to_linen(op: str, weights: Arrays) -> dict[str, dict[str, Any]]:
    of_x, of_h = _LAYERS[op]
    out: dict[str, dict[str, Any]] = {}
    for names, key in ((of_x, "w_ih"), (of_h, "w_hh")):
        for name, kernel in zip(names, _blocks(weights[key], op), strict=True):
            out[name] = {"kernel": kernel}
    b, inside = _folded(weights) if op == "gru" else (weights["b"], None)
    holders = of_h if op == "lstm" else of_x
    for name, bias in zip(holders, _blocks(b, op), strict=True):
        out[name]["bias"] = bias
    if inside is not None:
        out["hn"]["bias"] = inside
    return out


def _from_nnx(op: str, source: Mapping[str, Arrays]) -> Weights:
    if "dense_i" not in source:
        return _from_linen(op, source)
    x, h = source["dense_i"], source["dense_h"]
    out = {"w_ih": _array(x["kernel"]), "w_hh": _array(h["kernel"])}
    b, b_hh = _maybe(x, "bias"), _maybe(h, "bias")
    return {**out, "b": b, "b_hh": b_hh} if op == "gru" else {**out, "b": _sum(b, b_hh)}


def _to_nnx(op: str, weights: Arrays) -> dict[str, dict[str, Any]]:
    b = jnp.asarray(weights["b"])
    x: dict[str, Any] = {"kernel": jnp.asarray(weights["w_ih"])}
    h: dict[str, Any] = {"kernel": jnp.asarray(weights["w_hh"])}
    if op == "lstm":
        h["bias"] = b
    elif op == "gru":
        x["bias"], inside = _folded(weights)
        if bool((inside != 0).any()):
            raise OpError(op, "NNX's GRUCell has no bias of n inside of the reset gate")
    else:
        x["bias"] = b
    return {"dense_i": x, "dense_h": h}


def _from_equinox(op: str, cell: Any) -> Weights:
    fields = cell if isinstance(cell, Mapping) else vars(cell)
    out = {"w_ih": _array(fields["weight_ih"]).T, "w_hh": _array(fields["weight_hh"]).T}
    out["b"] = _maybe(fields, "bias")
    return {**out, "b_hh": _inside(None, fields.get("bias_n"))} if op == "gru" else out


def _to_equinox(op: str, weights: Arrays) -> dict[str, Any]:
    if op == "rnn":
        raise OpError(op, "Equinox has no simple recurrent cell")
    out = {k: jnp.asarray(weights[w]).T for k, w in (("weight_ih", "w_ih"), ("weight_hh", "w_hh"))}
    if op == "lstm":
        return {**out, "bias": jnp.asarray(weights["b"])}
    b, inside = _folded(weights)
    return {**out, "bias": b, "bias_n": inside}


def _from_haiku(op: str, source: Mapping[str, Arrays]) -> Weights:
    layers = list(source.values())
    if op == "rnn":
        x, h = (source[k] for k in sorted(source))  # .../linear and .../linear_1
        b = _sum(_maybe(x, "b"), _maybe(h, "b"))
        return {"w_ih": _array(x["w"]), "w_hh": _array(h["w"]), "b": b, "activation": "relu"}
    if op == "lstm":
        hidden = _array(layers[0]["w"]).shape[1] // 4
        (i, g, f, o), (b_i, b_g, b_f, b_o) = (_blocks(layers[0][k], op) for k in ("w", "b"))
        w = jnp.concatenate([i, f, g, o], axis=-1)
        b = jnp.concatenate([b_i, b_f + 1, b_g, b_o])
        return {"w_ih": w[:-hidden], "w_hh": w[-hidden:], "b": b}
    # z is one minus ours, and sigmoid(-x) is one minus sigmoid(x).
    turned = {k: _blocks(layers[0][k], op) for k in ("w_i", "w_h", "b")}
    out = {k: jnp.concatenate([r, -z, n], axis=-1) for k, (z, r, n) in turned.items()}
    return {"w_ih": out["w_i"], "w_hh": out["w_h"], "b": out["b"], "reset_after": False}


def _to_haiku(op: str, weights: Arrays) -> dict[str, dict[str, Any]]:
    if op == "rnn":
        b = jnp.asarray(weights["b"])
        return {
            "vanilla_rnn/linear": {"w": jnp.asarray(weights["w_ih"]), "b": b},
            "vanilla_rnn/linear_1": {"w": jnp.asarray(weights["w_hh"]), "b": jnp.zeros_like(b)},
        }
    if op == "lstm":
        both = jnp.concatenate([jnp.asarray(weights["w_ih"]), jnp.asarray(weights["w_hh"])])
        (i, f, g, o), (b_i, b_f, b_g, b_o) = (_blocks(v, op) for v in (both, weights["b"]))
        w, b = jnp.concatenate([i, g, f, o], -1), jnp.concatenate([b_i, b_g, b_f - 1, b_o])
        return {"lstm/linear": {"w": w, "b": b}}
    total = {"w_i": weights["w_ih"], "w_h": weights["w_hh"], "b": weights["b"] + weights["b_hh"]}
    turned = {k: _blocks(v, op) for k, v in total.items()}
    return {"gru": {k: jnp.concatenate([-z, r, n], axis=-1) for k, (r, z, n) in turned.items()}}


def _swapped(x: Any) -> Any:
    """z, r, n for r, z, n, and back."""
    r, z, n = _blocks(x, "gru")
    return jnp.concatenate([z, r, n], axis=-1)


def _from_keras(op: str, source: Sequence[Any]) -> Weights:
    w_ih, w_hh, *bias = map(_array, source)
    b = bias[0] if bias else None
    if op != "gru":
        return {"w_ih": w_ih, "w_hh": w_hh, "b": b}
    out = {"w_ih": _swapped(w_ih), "w_hh": _swapped(w_hh)}
    if b is None:
        return out
    if b.ndim == 2:
        return {**out, "b": _swapped(b[0]), "b_hh": _swapped(b[1])}
    return {**out, "b": _swapped(b), "reset_after": False}


def _to_keras(op: str, weights: Arrays) -> list[Any]:
    w_ih, w_hh, b = (jnp.asarray(weights[k]) for k in ("w_ih", "w_hh", "b"))
    if op != "gru":
        return [w_ih, w_hh, b]
    b_hh = jnp.asarray(weights["b_hh"])
    bias = jnp.stack([b, b_hh]) if weights.get("reset_after", True) else b + b_hh
    return [_swapped(w_ih), _swapped(w_hh), _swapped(bias)]


_LIBRARIES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "torch": (_from_torch, _to_torch),
    "linen": (_from_linen, _to_linen),
    "flax": (_from_linen, _to_linen),
    "nnx": (_from_nnx, _to_nnx),
    "equinox": (_from_equinox, _to_equinox),
    "haiku": (_from_haiku, _to_haiku),
    "keras": (_from_keras, _to_keras),
}
