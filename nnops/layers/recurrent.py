"""Recurrent layers over whole sequences."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxpress.nnops import initializers
from jaxpress.nnops.activation_spec import to_activation
from jaxpress.nnops.gru import gru
from jaxpress.nnops.layers.layer import Layer, drawn, keys, layer, setting
from jaxpress.nnops.lstm import lstm
from jaxpress.nnops.rnn import rnn

__all__ = ["GRU", "LSTM", "RNN"]

_ACTIVATIONS = ("activation", "gate_activation")


def _gates(init: Any, key: Any, rows: int, features: int, gates: int, dtype: Any) -> jax.Array:
    """(rows, gates * features): a matrix for each gate, drawn on its own."""
    drawn_each = [drawn(init, k, (rows, features), dtype) for k in keys(key, gates)]
    return jnp.concatenate(drawn_each, axis=1)


class _Recurrent(Layer):
    def __post_init__(self) -> None:
        """One form for each activation."""
        for name in _ACTIVATIONS:
            if not hasattr(self, name):  # an RNN has no gates
                continue
            value = to_activation(getattr(self, name), type(self).__name__)
            object.__setattr__(self, name, value)

    def in_chain(self, x: Any, *, key: Any, training: bool) -> tuple[Any, Layer]:
        """See `Layer`; the state is left behind."""
        del key, training
        call: Any = self
        y, _ = call(x)
        return y, self


@layer
class LSTM(_Recurrent):
    """Long short-term memory, `lstm`. In a `Sequential`, the output alone goes on.

    Attributes:
        w_ih: (in, 4 * features), gates i, f, g, o.
        w_hh: (features, 4 * features).
        b: (4 * features,), or None.
        reverse: from the last step to the first.
        activation: of g and of the cell state.
        gate_activation: of i, f and o.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> y, (h, c) = nnops.LSTM.init(jax.random.key(0), 3, 5)(jnp.ones((2, 7, 3)))
        >>> y.shape, h.shape, c.shape
        ((2, 7, 5), (2, 5), (2, 5))
    """

    w_ih: Any
    w_hh: Any
    b: Any = None
    reverse: bool = setting(default=False, kw_only=True)
    activation: Any = setting(default="tanh", kw_only=True)
    gate_activation: Any = setting(default="sigmoid", kw_only=True)

    @classmethod
    def init(
        cls,
        key: Any,
        in_features: int,
        features: int,
        *,
        use_bias: bool = True,
        kernel_init: Any = initializers.lecun_normal(),  # noqa: B008 - it has no state
        recurrent_init: Any = initializers.orthogonal(),  # noqa: B008
        bias_init: Any = initializers.zeros,
        dtype: Any = jnp.float32,
        **settings: Any,
    ) -> LSTM:
        """A layer with new parameters.

        Args:
            key: a random key.
            in_features: of x.
            features: of the state.
            use_bias: whether there is b.
            kernel_init: of w_ih, for each gate alone.
            recurrent_init: of w_hh, for each gate alone.
            bias_init: of b.
            dtype: of the parameters.
            **settings: the layer's own.

        Returns:
            The layer.
        """
        for_x, for_h, for_b = keys(key, 3)
        w_ih = _gates(kernel_init, for_x, in_features, features, 4, dtype)
        w_hh = _gates(recurrent_init, for_h, features, features, 4, dtype)
        b = drawn(bias_init, for_b, (4 * features,), dtype) if use_bias else None
        return cls(w_ih, w_hh, b, **settings)

    def __call__(
        self, x: Any, h0: Any = None, c0: Any = None, *, lengths: Any = None, mask: Any = None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """``(y, (h, c))``; see `lstm`."""
        return lstm(
            x,
            h0,
            c0,
            self.w_ih,
            self.w_hh,
            self.b,
            lengths=lengths,
            mask=mask,
            reverse=self.reverse,
            activation=self.activation,
            gate_activation=self.gate_activation,
        )


@layer
class GRU(_Recurrent):
    """Gated recurrent unit, `gru`. In a `Sequential`, the output alone goes on.

    Attributes:
        w_ih: (in, 3 * features), gates r, z, n.
        w_hh: (features, 3 * features).
        b: (3 * features,), or None.
        b_hh: (3 * features,), the recurrent bias, or None.
        reset_after: whether r scales the product or what enters it.
        reverse: from the last step to the first.
        activation: of n.
        gate_activation: of r and z.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> y, h = nnops.GRU.init(jax.random.key(0), 3, 5)(jnp.ones((2, 7, 3)))
        >>> y.shape, h.shape
        ((2, 7, 5), (2, 5))
    """

    w_ih: Any
    w_hh: Any
    b: Any = None
    b_hh: Any = None
    reset_after: bool = setting(default=True, kw_only=True)
    reverse: bool = setting(default=False, kw_only=True)
    activation: Any = setting(default="tanh", kw_only=True)
    gate_activation: Any = setting(default="sigmoid", kw_only=True)

    @classmethod
    def init(
        cls,
        key: Any,
        in_features: int,
        features: int,
        *,
        use_bias: bool = True,
        kernel_init: Any = initializers.lecun_normal(),  # noqa: B008 - it has no state
        recurrent_init: Any = initializers.orthogonal(),  # noqa: B008
        bias_init: Any = initializers.zeros,
        dtype: Any = jnp.float32,
        **settings: Any,
    ) -> GRU:
        """A layer with new parameters.

        Args:
            key: a random key.
            in_features: of x.
            features: of the state.
            use_bias: whether there are b and, with ``reset_after``, b_hh.
            kernel_init: of w_ih, for each gate alone.
            recurrent_init: of w_hh, for each gate alone.
            bias_init: of b and b_hh.
            dtype: of the parameters.
            **settings: the layer's own.

        Returns:
            The layer.
        """
        for_x, for_h, for_b, for_b_hh = keys(key, 4)
        w_ih = _gates(kernel_init, for_x, in_features, features, 3, dtype)
        w_hh = _gates(recurrent_init, for_h, features, features, 3, dtype)
        b = drawn(bias_init, for_b, (3 * features,), dtype) if use_bias else None
        after = use_bias and settings.get("reset_after", True)
        b_hh = drawn(bias_init, for_b_hh, (3 * features,), dtype) if after else None
        return cls(w_ih, w_hh, b, b_hh, **settings)

    def __call__(
        self, x: Any, h0: Any = None, *, lengths: Any = None, mask: Any = None
    ) -> tuple[jax.Array, jax.Array]:
        """``(y, h)``; see `gru`."""
        return gru(
            x,
            h0,
            self.w_ih,
            self.w_hh,
            self.b,
            self.b_hh,
            lengths=lengths,
            mask=mask,
            reset_after=self.reset_after,
            reverse=self.reverse,
            activation=self.activation,
            gate_activation=self.gate_activation,
        )


@layer
class RNN(_Recurrent):
    """Simple recurrent network, `rnn`. In a `Sequential`, the output alone goes on.

    Attributes:
        w_ih: (in, features).
        w_hh: (features, features).
        b: (features,), or None.
        reverse: from the last step to the first.
        activation: of the state, such as ``"tanh"`` or ``"relu"``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> y, h = nnops.RNN.init(jax.random.key(0), 3, 5)(jnp.ones((2, 7, 3)))
        >>> y.shape, h.shape
        ((2, 7, 5), (2, 5))
    """

    w_ih: Any
    w_hh: Any
    b: Any = None
    reverse: bool = setting(default=False, kw_only=True)
    activation: Any = setting(default="tanh", kw_only=True)

    @classmethod
    def init(
        cls,
        key: Any,
        in_features: int,
        features: int,
        *,
        use_bias: bool = True,
        kernel_init: Any = initializers.lecun_normal(),  # noqa: B008 - it has no state
        recurrent_init: Any = initializers.orthogonal(),  # noqa: B008
        bias_init: Any = initializers.zeros,
        dtype: Any = jnp.float32,
        **settings: Any,
    ) -> RNN:
        """A layer with new parameters.

        Args:
            key: a random key.
            in_features: of x.
            features: of the state.
            use_bias: whether there is b.
            kernel_init: of w_ih.
            recurrent_init: of w_hh.
            bias_init: of b.
            dtype: of the parameters.
            **settings: the layer's own.

        Returns:
            The layer.
        """
        for_x, for_h, for_b = keys(key, 3)
        w_ih = drawn(kernel_init, for_x, (in_features, features), dtype)
        w_hh = drawn(recurrent_init, for_h, (features, features), dtype)
        b = drawn(bias_init, for_b, (features,), dtype) if use_bias else None
        return cls(w_ih, w_hh, b, **settings)

    def __call__(
        self, x: Any, h0: Any = None, *, lengths: Any = None, mask: Any = None
    ) -> tuple[jax.Array, jax.Array]:
        """``(y, h)``; see `rnn`."""
        return rnn(
            x,
            h0,
            self.w_ih,
            self.w_hh,
            self.b,
            lengths=lengths,
            mask=mask,
            reverse=self.reverse,
            activation=self.activation,
        )
