"""A linear layer over several axes, such as an attention projection, as a named op."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jax import lax

from jaxpress.nnops.dense import fold_leading
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.einsum_equation import canonical_equation, parse_equation
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.fused import as_arrays, define_fused, fused_call

__all__ = ["einsum_dense"]


def _core(x: Any, w: Any, *, equation: str, precision: Any, preferred_element_type: Any) -> Any:
    parts = parse_equation(equation)
    lead = x.ndim - len(parts.x)
    at_x = {c: lead + i for i, c in enumerate(parts.x)}
    at_w = {c: i for i, c in enumerate(parts.w)}
    summed, batch = parts.contracted, parts.batch
    z = lax.dot_general(
        x,
        w,
        (
            ([at_x[c] for c in summed], [at_w[c] for c in summed]),
            ([at_x[c] for c in batch], [at_w[c] for c in batch]),
        ),
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    # dot_general gives the shared axes, then x's, then w's.
    kept = "".join(c for c in parts.x if c in parts.out and c not in batch)
    own = "".join(c for c in parts.w if c not in parts.x)
    made = {c: i for i, c in enumerate(batch)}
    made.update({c: len(batch) + lead + i for i, c in enumerate(kept + own)})
    order = [*range(len(batch), len(batch) + lead), *(made[c] for c in parts.out)]
    return z if order == list(range(z.ndim)) else lax.transpose(z, order)


def _check(x: Any, w: Any, params: Mapping[str, Any]) -> None:
    equation = params["equation"]
    parts = parse_equation(equation)
    if w.ndim != len(parts.w) or x.ndim < len(parts.x):
        raise OpError(
            "einsum_dense",
            f"x has {x.ndim} axes and w has {w.ndim}, for the equation {equation!r}",
            {"x": x, "w": w},
            f"give x at least {len(parts.x)} axes and w {len(parts.w)}, or another equation",
        )
    lead = x.ndim - len(parts.x)
    for i, c in enumerate(parts.w):
        if c in parts.x and x.shape[lead + parts.x.index(c)] != w.shape[i]:
            size = x.shape[lead + parts.x.index(c)]
            raise OpError(
                "einsum_dense",
                f"axis {c!r} of {equation!r} has size {size} in x and {w.shape[i]} in w",
                {"x": x, "w": w},
                "give both the same size; nothing is broadcast",
            )


_EINSUM_DENSE = define_fused(
    "einsum_dense",
    _core,
    defaults={"equation": "...a,ab->...b", "precision": None, "preferred_element_type": None},
    kernels=(),
    normalize=lambda params: {**params, "equation": canonical_equation(params["equation"])},
    check=_check,
    features_axis=lambda params: parse_equation(params["equation"]).bias_axes,
    fold=fold_leading,
)


@eagerly_jitted
def einsum_dense(
    x: Any,
    w: Any,
    b: Any = None,
    residual: Any = None,
    *,
    equation: str,
    activation: Any = None,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Linear layer over several axes.

    ``activation(einsum(equation, x, w) + b + residual)``

    Args:
        x: the data.
        w: the weights.
        b: the axes that the result shares with w, in the result's order: (h, k) for
            ``"...d,dhk->...hk"``; or None.
        residual: the result's very shape, or None.
        equation: as for jnp.einsum: ``"btd,dhk->bthk"`` splits features into heads,
            ``"...hk,hkd->...d"`` merges them, ``"...ha,hak->...hk"`` has weights for each head.
            Every axis of w is summed with one of x, or comes out; no axis of x is summed alone.
        activation: None, a name such as ``"relu"``, or ``("leaky_relu", {"negative_slope": 0.2})``.
        precision: as in jax.lax.dot_general.
        preferred_element_type: dtype of the product, as in jax.lax.dot_general.

    Returns:
        The axes that the equation says. Operands of different dtypes are promoted as jax.numpy
        does.

    Raises:
        OpError: the equation is none of this kind, or shapes do not fit; axes of size 1 are not
            broadcast.
        OpTypeError: the activation is of no known kind.

    Source: keras.layers.EinsumDense, flax.linen.DenseGeneral; jax.lax.dot_general.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> x, w, b = jnp.ones((2, 5, 6)), jnp.ones((6, 3, 2)), jnp.ones((3, 2))
        >>> nnops.einsum_dense(x, w, b, equation="btd,dhk->bthk").shape
        (2, 5, 3, 2)
    """
    operands = as_arrays("einsum_dense", x, w, b, residual)
    given, ndim = operands["x"], operands["x"].ndim
    canonical = canonical_equation(equation, ndim)
    labels = equation.split(",")[0].replace(" ", "")
    if "..." not in labels and len(labels) != ndim:
        raise OpError(
            "einsum_dense",
            f"x has {ndim} axes, and the equation {equation!r} names {len(labels)}",
            {"x": given, "w": operands["w"]},
            'name them all, or let "..." stand for the leading ones',
        )
    params = {
        "equation": canonical,
        "activation": activation,
        "precision": precision,
        "preferred_element_type": preferred_element_type,
    }
    axes = parse_equation(canonical).bias_axes
    return fused_call(_EINSUM_DENSE, operands, params, axes)
