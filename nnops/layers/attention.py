"""Multi-head attention with its projections, as a layer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxpress.nnops import initializers
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.layers.layer import Layer, drawn, keys, layer, setting
from jaxpress.nnops.multi_head_attention import multi_head_attention

__all__ = ["MultiHeadAttention"]


@layer
class MultiHeadAttention(Layer):
    """Multi-head attention with its projections, `multi_head_attention`.

    Attributes:
        w_query: (in, heads, head_features).
        w_key: (in, kv_heads, head_features).
        w_value: (in, kv_heads, head_features).
        w_out: (heads, head_features, features).
        b_query: and the other biases: of the weights' shapes without ``in``, or None.
        is_causal: whether a position sees only itself and those before.
        scale: of the logits; None for ``1 / sqrt(head_features)``.
        dropout_rate: of the attention weights, in training.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> attention = nnops.MultiHeadAttention.init(jax.random.key(0), 6, 2, is_causal=True)
        >>> attention(jnp.ones((4, 5, 6))).shape
        (4, 5, 6)
    """

    w_query: Any
    w_key: Any
    w_value: Any
    w_out: Any
    b_query: Any = None
    b_key: Any = None
    b_value: Any = None
    b_out: Any = None
    is_causal: bool = setting(default=False, kw_only=True)
    scale: float | None = setting(default=None, kw_only=True)
    dropout_rate: float = setting(default=0.0, kw_only=True)

    @classmethod
    def init(
        cls,
        key: Any,
        in_features: int,
        heads: int,
        *,
        features: int | None = None,
        head_features: int | None = None,
        kv_heads: int | None = None,
        kv_features: int | None = None,
        use_bias: bool = True,
        kernel_init: Any = initializers.lecun_normal(),  # noqa: B008 - it has no state
        bias_init: Any = initializers.zeros,
        dtype: Any = jnp.float32,
        **settings: Any,
    ) -> MultiHeadAttention:
        """A layer with new parameters.

        Args:
            key: a random key.
            in_features: of the query.
            heads: how many.
            features: of the result; None for those of the query.
            head_features: of each head; None for ``in_features / heads``.
            kv_heads: heads of key and value, a divisor of ``heads``; None for as many.
            kv_features: of what is given as key and value; None for those of the query.
            use_bias: whether the projections have biases.
            kernel_init: of the projections, drawn as matrices.
            bias_init: of the biases.
            dtype: of the parameters.
            **settings: the layer's own.

        Returns:
            The layer.

        Raises:
            OpError: heads do not divide in_features where they should, or kv_heads not heads.
        """
        if head_features is None:
            if in_features % heads:
                raise OpError(
                    "MultiHeadAttention",
                    f"{in_features} features do not split into {heads} heads",
                    mend="give head_features",
                )
            head_features = in_features // heads
        kv_heads = heads if kv_heads is None else kv_heads
        if kv_heads < 1 or heads % kv_heads:
            raise OpError(
                "MultiHeadAttention",
                f"{heads} heads share {kv_heads} of key and value",
                mend="give kv_heads that divide heads",
            )
        features = in_features if features is None else features
        kv_features = in_features if kv_features is None else kv_features
        shapes = [
            (in_features, (heads, head_features)),
            (kv_features, (kv_heads, head_features)),
            (kv_features, (kv_heads, head_features)),
        ]
        *of_w, for_out, for_b = keys(key, 5)
        weights = [
            drawn(kernel_init, k, (rows, n * size), dtype).reshape(rows, n, size)
            for k, (rows, (n, size)) in zip(of_w, shapes, strict=True)
        ]
        out = drawn(kernel_init, for_out, (heads * head_features, features), dtype)
        weights.append(out.reshape(heads, head_features, features))
        biases = []
        if use_bias:
            wanted = [*(shape for _, shape in shapes), (features,)]
            of_b = keys(for_b, 4)
            biases = [drawn(bias_init, k, s, dtype) for k, s in zip(of_b, wanted, strict=True)]
        return cls(*weights, *biases, **settings)

    def __call__(
        self,
        query: Any,
        key: Any = None,
        value: Any = None,
        *,
        dropout_key: Any = None,
        training: bool = True,
        **attention: Any,
    ) -> jax.Array:
        """Attends from query to key and value.

        Args:
            query: (B, T, in).
            key: (B, S, kv_features), or None for query.
            value: (B, S, kv_features), or None for key.
            dropout_key: a random key; needed in training where there is dropout.
            training: whether weights are dropped.
            **attention: what `dot_product_attention` takes besides: bias, mask,
                key_padding_mask, ...

        Returns:
            (B, T, features).
        """
        if self.dropout_rate and training:
            attention |= {"dropout_rate": self.dropout_rate, "dropout_key": dropout_key}
        return multi_head_attention(
            query,
            key,
            value,
            self.w_query,
            self.w_key,
            self.w_value,
            self.w_out,
            self.b_query,
            self.b_key,
            self.b_value,
            self.b_out,
            **{"is_causal": self.is_causal, "scale": self.scale, **attention},
        )

    def in_chain(self, x: Any, *, key: Any, training: bool) -> tuple[Any, Layer]:
        """See `Layer`: attends from x to itself."""
        return self(x, dropout_key=key, training=training), self
