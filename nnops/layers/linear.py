"""Layers with a weight matrix: dense, convolution, embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxpress.nnops import initializers
from jaxpress.nnops.activation_spec import to_activation
from jaxpress.nnops.conv import conv
from jaxpress.nnops.conv_geometry import layout, specs
from jaxpress.nnops.conv_variants import conv_transpose
from jaxpress.nnops.dense import dense
from jaxpress.nnops.embedding import attend, embedding
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.layers.layer import Layer, drawn, keys, layer, setting

__all__ = ["Conv", "ConvTranspose", "Dense", "Embedding"]


@layer
class Dense(Layer):
    """Fully connected layer, `dense`: ``activation(x @ w + b)``.

    Attributes:
        w: (in, features).
        b: (features,), or None.
        activation: None, a name, or ``(name, {parameter: value})``.
        precision: as in jax.lax.dot_general.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> nnops.Dense(jnp.ones((3, 2)), jnp.zeros(2))(jnp.ones(3)).tolist()
        [3.0, 3.0]
    """

    w: Any
    b: Any = None
    activation: Any = setting(default=None, kw_only=True)
    precision: Any = setting(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """One form for each activation."""
        object.__setattr__(self, "activation", to_activation(self.activation, "Dense"))

    @classmethod
    def init(
        cls,
        key: Any,
        in_features: int,
        features: int,
        *,
        use_bias: bool = True,
        kernel_init: Any = initializers.lecun_normal(),  # noqa: B008 - it has no state
        bias_init: Any = initializers.zeros,
        dtype: Any = jnp.float32,
        **settings: Any,
    ) -> Dense:
        """A layer with new parameters.

        Args:
            key: a random key.
            in_features: of what the layer is given.
            features: of what it gives.
            use_bias: whether there is b.
            kernel_init: of w, ``(key, shape, dtype)``; see `initializers`.
            bias_init: of b.
            dtype: of the parameters.
            **settings: the layer's own.

        Returns:
            The layer.
        """
        for_w, for_b = keys(key, 2)
        w = drawn(kernel_init, for_w, (in_features, features), dtype)
        b = drawn(bias_init, for_b, (features,), dtype) if use_bias else None
        return cls(w, b, **settings)

    def __call__(self, x: Any, residual: Any = None) -> jax.Array:
        """``activation(x @ w + b + residual)``; see `dense`."""
        return dense(
            x, self.w, self.b, residual, activation=self.activation, precision=self.precision
        )


@layer
class Conv(Layer):
    """Convolution, `conv`: ``activation(conv(x, w) + b)``.

    Attributes:
        w: (spatial..., channels / groups, features), unless ``dimension_numbers`` say otherwise.
        b: (features,), or None.
        strides: and all that follow: as `conv` has them.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> layer = nnops.Conv.init(jax.random.key(0), 3, 16, (3, 3), strides=2)
        >>> layer(jnp.ones((1, 8, 8, 3))).shape
        (1, 4, 4, 16)
    """

    w: Any
    b: Any = None
    strides: Any = setting(default=1, kw_only=True)
    padding: Any = setting(default="SAME", kw_only=True)
    dilation: Any = setting(default=1, kw_only=True)
    groups: int = setting(default=1, kw_only=True)
    dimension_numbers: Any = setting(default=None, kw_only=True)
    transposed: bool = setting(default=False, kw_only=True)
    activation: Any = setting(default=None, kw_only=True)
    precision: Any = setting(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """One form for each activation."""
        object.__setattr__(self, "activation", to_activation(self.activation, "Conv"))

    @classmethod
    def init(
        cls,
        key: Any,
        in_features: int,
        features: int,
        kernel_size: Sequence[int],
        *,
        use_bias: bool = True,
        kernel_init: Any = initializers.lecun_normal(),  # noqa: B008 - it has no state
        bias_init: Any = initializers.zeros,
        dtype: Any = jnp.float32,
        groups: int = 1,
        dimension_numbers: Any = None,
        **settings: Any,
    ) -> Conv:
        """A layer with new parameters.

        Args:
            key: a random key.
            in_features: channels of what the layer is given.
            features: channels of what it gives.
            kernel_size: of the window, one number for each spatial dimension.
            use_bias: whether there is b.
            kernel_init: of w in the layout HWIO, whatever ``dimension_numbers`` say.
            bias_init: of b.
            dtype: of the parameters.
            groups: see `conv`.
            dimension_numbers: see `conv`.
            **settings: the layer's others.

        Returns:
            The layer.

        Raises:
            OpError: kernel_size is one number, or the groups do not divide the features.
        """
        _check_kernel_size("Conv", kernel_size)
        if groups < 1 or in_features % groups or features % groups:
            raise OpError(
                "Conv",
                f"{groups} groups of {in_features} channels and {features} features",
                mend="give groups that divide both",
            )
        for_w, for_b = keys(key, 2)
        shape = (*kernel_size, in_features // groups, features)
        w = drawn(kernel_init, for_w, shape, dtype)
        w = _laid_out(w, dimension_numbers)
        b = drawn(bias_init, for_b, (features,), dtype) if use_bias else None
        return cls(w, b, groups=groups, dimension_numbers=dimension_numbers, **settings)

    def __call__(self, x: Any, residual: Any = None) -> jax.Array:
        """``activation(conv(x, w) + b + residual)``; see `conv`."""
        return conv(
            x,
            self.w,
            self.b,
            residual,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            dimension_numbers=self.dimension_numbers,
            transposed=self.transposed,
            activation=self.activation,
            precision=self.precision,
        )


@layer
class ConvTranspose(Layer):
    """Transposed convolution, `conv_transpose`: ``activation(conv_transpose(x, w) + b)``.

    Attributes:
        w: (spatial..., channels, features), or with ``transpose_kernel`` (spatial..., features,
            channels); unless ``dimension_numbers`` say otherwise.
        b: (features,), or None.
        strides: and all that follow: as `conv_transpose` has them.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> layer = nnops.ConvTranspose.init(jax.random.key(0), 3, 16, (3, 3), strides=2)
        >>> layer(jnp.ones((1, 4, 4, 3))).shape
        (1, 8, 8, 16)
    """

    w: Any
    b: Any = None
    strides: Any = setting(default=1, kw_only=True)
    padding: Any = setting(default="SAME", kw_only=True)
    output_padding: Any = setting(default=0, kw_only=True)
    dilation: Any = setting(default=1, kw_only=True)
    dimension_numbers: Any = setting(default=None, kw_only=True)
    transpose_kernel: bool = setting(default=False, kw_only=True)
    activation: Any = setting(default=None, kw_only=True)
    precision: Any = setting(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """One form for each activation."""
        value = to_activation(self.activation, "ConvTranspose")
        object.__setattr__(self, "activation", value)

    @classmethod
    def init(
        cls,
        key: Any,
        in_features: int,
        features: int,
        kernel_size: Sequence[int],
        *,
        use_bias: bool = True,
        kernel_init: Any = initializers.lecun_normal(),  # noqa: B008 - it has no state
        bias_init: Any = initializers.zeros,
        dtype: Any = jnp.float32,
        dimension_numbers: Any = None,
        transpose_kernel: bool = False,
        **settings: Any,
    ) -> ConvTranspose:
        """A layer with new parameters.

        Args:
            key: a random key.
            in_features: channels of what the layer is given.
            features: channels of what it gives.
            kernel_size: of the window, one number for each spatial dimension.
            use_bias: whether there is b.
            kernel_init: of w in the layout (spatial..., channels, features), whatever
                ``dimension_numbers`` and ``transpose_kernel`` say.
            bias_init: of b.
            dtype: of the parameters.
            dimension_numbers: see `conv`.
            transpose_kernel: see `conv_transpose`.
            **settings: the layer's others.

        Returns:
            The layer.

        Raises:
            OpError: kernel_size is one number.
        """
        _check_kernel_size("ConvTranspose", kernel_size)
        for_w, for_b = keys(key, 2)
        w = drawn(kernel_init, for_w, (*kernel_size, in_features, features), dtype)
        if transpose_kernel:
            w = jnp.swapaxes(w, -1, -2)
        w = _laid_out(w, dimension_numbers)
        b = drawn(bias_init, for_b, (features,), dtype) if use_bias else None
        own = {"dimension_numbers": dimension_numbers, "transpose_kernel": transpose_kernel}
        return cls(w, b, **own, **settings)

    def __call__(self, x: Any) -> jax.Array:
        """``activation(conv_transpose(x, w) + b)``; see `conv_transpose`."""
        return conv_transpose(
            x,
            self.w,
            self.b,
            strides=self.strides,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            dimension_numbers=self.dimension_numbers,
            transpose_kernel=self.transpose_kernel,
            activation=self.activation,
            precision=self.precision,
        )


def _check_kernel_size(layer: str, kernel_size: Any) -> None:
    if not isinstance(kernel_size, Sequence):
        raise OpError(
            layer,
            f"kernel_size is {kernel_size!r}",
            mend="give one number for each spatial dimension, such as (3, 3)",
        )


def _laid_out(w: Any, dimension_numbers: Any) -> Any:
    """A kernel (spatial..., channels, features) as ``dimension_numbers`` have it."""
    if dimension_numbers is None:
        return w
    n = w.ndim - 2
    return jnp.moveaxis(w, (n + 1, n, *range(n)), specs(layout(dimension_numbers, w, w)).rhs_spec)


@layer
class Embedding(Layer):
    """Embedding lookup, `embedding`: ``table[ids]``.

    Attributes:
        table: (rows, features).
        mode: what becomes of ids out of range, as `embedding` has it.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> layer = nnops.Embedding(jnp.eye(3))
        >>> layer(jnp.array([2])).tolist(), layer.attend(jnp.array([0.0, 5.0, 0.0])).tolist()
        ([[0.0, 0.0, 1.0]], [0.0, 5.0, 0.0])
    """

    table: Any
    mode: str = setting(default="fill", kw_only=True)

    @classmethod
    def init(
        cls,
        key: Any,
        rows: int,
        features: int,
        *,
        kernel_init: Any = initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0),  # noqa: B008
        dtype: Any = jnp.float32,
        **settings: Any,
    ) -> Embedding:
        """A layer with a new table.

        Args:
            key: a random key.
            rows: how many ids there are.
            features: of each.
            kernel_init: of the table; as Flax has it, of variance ``1 / features``.
            dtype: of the table.
            **settings: the layer's own.

        Returns:
            The layer.
        """
        return cls(drawn(kernel_init, key, (rows, features), dtype), **settings)

    def __call__(self, ids: Any) -> jax.Array:
        """``table[ids]``; see `embedding`."""
        return embedding(ids, self.table, mode=self.mode)

    def attend(self, x: Any) -> jax.Array:
        """``x @ table.T``, the logits of a tied last layer; see `attend`."""
        return attend(x, self.table)
