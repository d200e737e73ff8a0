"""A node's source is the user's own line."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from programs import f32

import jaxpress.capture
from jaxpress.capture import Source, trace
from jaxpress.capture.provenance import is_library_file

HERE = os.path.abspath(__file__)


def line_of(text: str) -> int:
    """The line of this file that holds ``text`` and a mark."""
    lines = Path(HERE).read_text().splitlines()
    (found,) = [i for i, line in enumerate(lines, 1) if f"{text}  # <-" in line]
    return found


def source(fn: Any, op: str, *args: Any) -> Source:
    found = trace(fn)(*args).find(op)[0].source
    assert found is not None
    return found


def test_a_plain_function() -> None:
    def fn(x):
        y = x + 1
        return lax.sin(y)  # <-

    found = source(fn, "sin", 1.0)
    assert (found.file, found.line) == (HERE, line_of("return lax.sin(y)"))
    assert found.function.endswith("fn")
    assert str(found) == f"test_provenance.py:{found.line} ({found.function})"


def test_below_transformations_and_wrappers() -> None:
    @functools.wraps(jnp.tanh)
    def wrapped(x):
        return jnp.tanh(x)  # <-

    fn = jax.jit(jax.vmap(jax.checkpoint(functools.partial(wrapped))))
    assert source(fn, "tanh", f32(3)).line == line_of("return jnp.tanh(x)")
    assert source(jax.grad(wrapped), "tanh", 1.0).line == line_of("return jnp.tanh(x)")


def test_models_of_every_library_point_at_the_users_line() -> None:
    import equinox
    import haiku
    from flax import linen, nnx

    x = np.ones((1, 2), np.float32)

    class Linen(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(3)(x)  # <-

    model = Linen()
    params = model.init(jax.random.key(0), x)
    found = source(model.apply, "dot_general", params, x)
    assert (found.file, found.line) == (HERE, line_of("return linen.Dense(3)(x)"))
    assert trace(model.apply)(params, x).find("dot_general")[0].scope == "Linen/Dense_0"

    class Nnx(nnx.Module):
        def __init__(self):
            self.layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.layer(x) + 0  # <-

    found = source(Nnx(), "dot_general", x)
    assert (found.file, found.line) == (HERE, line_of("return self.layer(x) + 0"))

    class Equinox(equinox.Module):
        layer: equinox.nn.Linear

        def __call__(self, x):
            return jax.vmap(self.layer)(x) - 0  # <-

    model = Equinox(equinox.nn.Linear(2, 3, key=jax.random.key(0)))
    found = source(model, "dot_general", x)
    assert (found.file, found.line) == (HERE, line_of("return jax.vmap(self.layer)(x) - 0"))

    def forward(x):
        return haiku.Linear(3)(x)  # <-

    pure = haiku.without_apply_rng(haiku.transform(forward))
    found = source(pure.apply, "dot_general", pure.init(jax.random.key(0), x), x)
    assert (found.file, found.line) == (HERE, line_of("return haiku.Linear(3)(x)"))


def test_named_ops_point_at_the_users_line() -> None:
    from jaxpress import nnops

    def fn(x):
        return nnops.relu(x)  # <-

    found = source(fn, "relu", f32(3))
    assert (found.file, found.line) == (HERE, line_of("return nnops.relu(x)"))


def test_a_library_is_better_than_nothing() -> None:
    import equinox

    # No frame of the traced function is ours: its caller is not part of the trace.
    layer = equinox.nn.LayerNorm(3)
    found = source(layer, "rsqrt", f32(3))
    assert "/equinox/" in found.file


def test_a_jaxpr_without_frames_has_no_source() -> None:
    graph = trace(jax.jit(jnp.sin))(1.0)
    (body,) = graph.nodes[0].subgraphs
    assert body.nodes[0].source is None


@pytest.mark.parametrize(
    ("file", "inside"),
    [
        ("/venv/lib/python3.11/site-packages/flax/linen/linear.py", True),
        ("C:\\venv\\Lib\\site-packages\\keras\\src\\layers\\core\\dense.py", True),
        ("/usr/lib/python3/dist-packages/haiku/_src/basic.py", True),
        ("/venv/lib/python3.11/site-packages/flaxmodels/resnet.py", False),
        ("/home/me/flax/model.py", False),
        ("/home/me/capture/model.py", False),
        ("<ipython-input-3>", False),
        (str(Path(jaxpress.capture.__file__).parent / "graph.py"), True),
        (HERE, False),
    ],
)
def test_files_of_libraries(file: str, inside: bool) -> None:
    assert is_library_file(file) is inside
