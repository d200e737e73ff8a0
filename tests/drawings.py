"""What the tests of pictures share: graphs to draw, and names that are hard to write."""

import jax
import jax.numpy as jnp

from jaxpress.capture import Graph, trace

# What people may call things, and what formats choke on.
NASTY = [
    "quote \" and ' one",
    "<b>bold</b> & done",
    "</script><script>alert(1)</script>",
    "back\\slash\\N \\G \\l\\",
    "line\nbreak\ttab",
    "null\x00bell\x07",
    "Größe → 形状 🎉",
    "]]> --> %s {0} ${x}",
    "‮right to left",
]


def scope_safe(name: str) -> str:
    """A name as JAX would keep it as one scope."""
    return name.replace("/", "∕")


def stack_of(n: int, *, odd: int | None = None) -> Graph:
    """A model of ``n`` equal layers, the ``odd``-th of which is different."""

    def stack(params, x, mask):
        for i, (w, v) in enumerate(params):
            with jax.named_scope(f"layer_{i}"):
                with jax.named_scope("inner"):
                    y = jnp.sin(x @ w) * mask
                    y = jnp.cos(y) if i == odd else jnp.exp(y)
                x = x + y @ v
        return x

    params = [(jnp.ones((4, 6)), jnp.ones((6, 4)))] * n
    return trace(stack)(params, jnp.ones((2, 4)), jnp.ones((2, 6)))
