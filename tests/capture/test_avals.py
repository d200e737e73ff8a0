"""Types as short text."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from programs import f32

from jaxpress.capture.avals import short_aval, short_dtype


@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        (jnp.float32, "f32"),
        (jnp.bfloat16, "bf16"),
        (jnp.int4, "i4"),
        (jnp.uint8, "u8"),
        (jnp.complex64, "c64"),
        (jnp.bool_, "bool"),
        (jnp.float8_e4m3fn, "float8_e4m3fn"),
    ],
)
def test_short_dtypes(dtype: object, text: str) -> None:
    assert short_dtype(jnp.dtype(dtype)) == text


def test_short_types() -> None:
    assert short_aval(jax.typeof(jax.random.key(0))) == "key<fry>[]"
    assert short_aval(jax.typeof(jax.new_ref(f32(2)))) == "Ref{f32[2]}"
    assert "token" in short_aval(jax.typeof(lax.create_token())).lower()
