"""Activations as people write them by hand, where they differ from ``jax.nn``'s own trace.

Each is traced once into a pattern. Products are not here: `raise_product` finds those in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy import special, stats

__all__ = ["FORMULAS", "Formula"]


@dataclass(frozen=True, eq=False)
class Formula:
    """One way to write an activation.

    Attributes:
      op: the named op that it is.
      fn: ``fn(x, **free parameters)``.
      needs: operations without which it cannot be in a graph.
      free: parameters of the op that the formula takes, any number.
      fixed: parameters of the op that it has.
      numerics: what the rewrite does to values.
      only_values: its derivative at a kink is another, so that it may be raised only where nobody
        differentiates.
    """

    op: str
    fn: Callable[..., Any]
    needs: tuple[str, ...]
    free: tuple[str, ...] = ()
    fixed: dict[str, Any] = field(default_factory=dict)
    numerics: str = "reassociates"
    only_values: bool = False


FORMULAS: tuple[Formula, ...] = (
    # The other operand first, and spelled out.
    Formula(
        "softplus",
        lambda x: jnp.logaddexp(0.0, x),
        ("custom_jvp_call",),
        numerics="exact",
    ),
    Formula(
        "log_sigmoid",
        lambda x: -jnp.logaddexp(0.0, -x),
        ("custom_jvp_call", "neg"),
        numerics="exact",
    ),
    # No activation, since it has values for x > 0 alone, and so not in their table.
    Formula("log1mexp", jax.nn.log1mexp, ("custom_jvp_call", "log1p", "expm1"), numerics="exact"),
    # The cases the other way round.
    Formula(
        "leaky_relu",
        lambda x, negative_slope: jnp.where(x < 0, negative_slope * x, x),
        ("lt", "select_n", "mul"),
        free=("negative_slope",),
        numerics="exact",
    ),
    # Without the inner case that keeps exp from overflowing: equal wherever that is finite.
    *(
        Formula("elu", fn, (compare, exp, "select_n"), ("alpha",))
        for exp, compare, fn in (
            ("expm1", "gt", lambda x, alpha: jnp.where(x > 0, x, alpha * jnp.expm1(x))),
            ("exp", "gt", lambda x, alpha: jnp.where(x > 0, x, alpha * (jnp.exp(x) - 1))),
            ("expm1", "le", lambda x, alpha: jnp.where(x <= 0, alpha * jnp.expm1(x), x)),
            ("exp", "le", lambda x, alpha: jnp.where(x <= 0, alpha * (jnp.exp(x) - 1), x)),
        )
    ),
    *(
        Formula("elu", fn, (compare, exp, "select_n"), fixed={"alpha": 1.0})
        for exp, compare, fn in (
            ("expm1", "gt", lambda x: jnp.where(x > 0, x, jnp.expm1(x))),
            ("exp", "gt", lambda x: jnp.where(x > 0, x, jnp.exp(x) - 1)),
            # With this alpha the derivative at 0 is 1 on either side.
            ("expm1", "ge", lambda x: jnp.where(x >= 0, x, jnp.expm1(x))),
            ("exp", "ge", lambda x: jnp.where(x >= 0, x, jnp.exp(x) - 1)),
            ("expm1", "lt", lambda x: jnp.where(x < 0, jnp.expm1(x), x)),
            ("exp", "lt", lambda x: jnp.where(x < 0, jnp.exp(x) - 1, x)),
        )
    ),
    # By the normal distribution's function.
    *(
        Formula("gelu", fn, ("erfc", "erf", "select_n"), fixed={"approximate": False})
        for fn in (lambda x: x * special.ndtr(x), lambda x: x * stats.norm.cdf(x))
    ),
    Formula("relu6", lambda x: lax.clamp(0.0, x, 6.0), ("clamp",), numerics="exact"),
    Formula("relu_squared", lambda x: jnp.square(jnp.maximum(x, 0)), ("max",), numerics="exact"),
    # Other derivatives at the kinks.
    Formula(
        "softplus",
        lambda x: jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x))),
        ("log1p", "abs"),
        only_values=True,
    ),
    Formula(
        "hard_tanh",
        lambda x: jnp.clip(x, -1, 1),
        ("max", "min"),
        numerics="exact",
        only_values=True,
    ),
    Formula(
        "hard_tanh",
        lambda x: lax.clamp(-1.0, x, 1.0),
        ("clamp",),
        numerics="exact",
        only_values=True,
    ),
)
