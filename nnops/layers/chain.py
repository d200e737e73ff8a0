"""Layers without parameters, and the chain of layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxpress.nnops.dropout import dropout
from jaxpress.nnops.errors import OpTypeError
from jaxpress.nnops.layers.layer import Layer, keys, layer, setting
from jaxpress.nnops.pooling import avg_pool, max_pool

__all__ = ["AvgPool", "Dropout", "Function", "MaxPool", "Sequential"]


@layer
class Dropout(Layer):
    """Dropout of random entries, `dropout`, in training.

    Attributes:
        rate: share of the entries that become 0.
        broadcast_dims: axes along which entries share their fate.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> layer = nnops.Dropout(0.5)
        >>> float(layer(jnp.ones(100), jax.random.key(0)).max())
        2.0
        >>> float(layer(jnp.ones(100), training=False).max())
        1.0
    """

    rate: float = setting()
    broadcast_dims: Any = setting(default=(), kw_only=True)

    @classmethod
    def init(cls, key: Any, rate: float, **settings: Any) -> Dropout:
        """The layer; there is nothing to draw, and the key is not used."""
        del key
        return cls(rate, **settings)

    def __call__(self, x: Any, key: Any = None, *, training: bool = True) -> jax.Array:
        """Drops entries of x in training; see `dropout`."""
        return dropout(
            x,
            key,
            rate=self.rate,
            deterministic=not training,
            broadcast_dims=self.broadcast_dims,
        )

    def in_chain(self, x: Any, *, key: Any, training: bool) -> tuple[Any, Layer]:
        """See `Layer`."""
        return self(x, key, training=training), self


@layer
class MaxPool(Layer):
    """Maximum over a sliding window, `max_pool`.

    Attributes:
        window_shape: and all that follow: as `max_pool` has them.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> nnops.MaxPool((2,), strides=2)(jnp.arange(4.0).reshape(1, 4, 1)).ravel().tolist()
        [1.0, 3.0]
    """

    window_shape: Any = setting()
    strides: Any = setting(default=None, kw_only=True)
    padding: Any = setting(default="VALID", kw_only=True)

    @classmethod
    def init(cls, key: Any, window_shape: Any, **settings: Any) -> MaxPool:
        """The layer; there is nothing to draw, and the key is not used."""
        del key
        return cls(window_shape, **settings)

    def __call__(self, x: Any) -> jax.Array:
        """Pools x; see `max_pool`."""
        return max_pool(x, self.window_shape, self.strides, self.padding)


@layer
class AvgPool(Layer):
    """Mean over a sliding window, `avg_pool`.

    Attributes:
        window_shape: and all that follow: as `avg_pool` has them.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> nnops.AvgPool((2,), strides=2)(jnp.arange(4.0).reshape(1, 4, 1)).ravel().tolist()
        [0.5, 2.5]
    """

    window_shape: Any = setting()
    strides: Any = setting(default=None, kw_only=True)
    padding: Any = setting(default="VALID", kw_only=True)
    count_include_pad: bool = setting(default=True, kw_only=True)

    @classmethod
    def init(cls, key: Any, window_shape: Any, **settings: Any) -> AvgPool:
        """The layer; there is nothing to draw, and the key is not used."""
        del key
        return cls(window_shape, **settings)

    def __call__(self, x: Any) -> jax.Array:
        """Pools x; see `avg_pool`."""
        return avg_pool(
            x,
            self.window_shape,
            self.strides,
            self.padding,
            count_include_pad=self.count_include_pad,
        )


@layer
class Function(Layer):
    """A plain function in a chain of layers.

    Attributes:
        fn: of one array; part of the pytree's structure, so give the same function each time.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.layers.Function(abs)(-1.0)
        1.0
    """

    fn: Callable[..., Any] = setting()

    def __call__(self, x: Any) -> Any:
        """``fn(x)``."""
        return self.fn(x)


@layer
class Sequential(Layer):
    """Layers, each given what the one before gave.

    A call gives y; or ``(y, layers)``, the layers after the call, where one of them has a state
    (`BatchNorm`). Functions may stand among the layers.

    Attributes:
        layers: a list or tuple of layers and functions.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> key = jax.random.key(0)
        >>> model = nnops.Sequential([nnops.Dense.init(key, 3, 4), nnops.relu, jnp.sum])
        >>> model(jnp.ones((2, 3))).shape
        ()
        >>> model = nnops.Sequential([nnops.BatchNorm.init(None, 3)])
        >>> y, model = model(jnp.ones((2, 3)))
    """

    layers: Any

    def __post_init__(self) -> None:
        """Functions become layers, since they are no arrays."""
        # What a transformation puts in the layers' place is none of ours.
        if isinstance(self.layers, list | tuple):
            object.__setattr__(self, "layers", tuple(map(_as_layer, self.layers)))

    @classmethod
    def init(cls, key: Any, *makers: Callable[[Any], Any]) -> Sequential:
        """Layers, each from a key of its own.

        Args:
            key: a random key.
            *makers: functions that take a key and give a layer, such as
                ``lambda key: nnops.Dense.init(key, 3, 4)``; ready layers too.

        Returns:
            The layer.
        """
        own = keys(key, len(makers))
        made = [m if isinstance(m, Layer) else m(k) for m, k in zip(makers, own, strict=True)]
        return cls(tuple(made))

    @property
    def stateful(self) -> bool:
        """Whether any of the layers is."""
        return any(isinstance(each, Layer) and each.stateful for each in self.layers)

    def __call__(self, x: Any, *, key: Any = None, training: bool = True) -> Any:
        """Runs x through all layers.

        Args:
            x: what the first layer takes.
            key: a random key for all layers together; needed where one of them draws.
            training: whether the model is being trained.

        Returns:
            y, or ``(y, layers)``; see the class.
        """
        y, after = self.in_chain(x, key=key, training=training)
        return (y, after) if self.stateful else y

    def in_chain(self, x: Any, *, key: Any, training: bool) -> tuple[Any, Layer]:
        """See `Layer`."""
        after = []
        for each, own in zip(self.layers, keys(key, len(self.layers)), strict=True):
            if isinstance(each, Layer):
                x, each = each.in_chain(x, key=own, training=training)
            else:
                x = each(x)
            after.append(each)
        return x, dataclasses.replace(self, layers=tuple(after))

    def __getitem__(self, index: Any) -> Any:
        """A layer, or for a slice a chain of them."""
        chosen = self.layers[index]
        return Sequential(chosen) if isinstance(index, slice) else chosen

    def __len__(self) -> int:
        """How many layers there are."""
        return len(self.layers)


def _as_layer(value: Any) -> Any:
    is_leaf = jax.tree_util.all_leaves([value])
    if not is_leaf or not callable(value):
        return value
    try:
        hash(value)
    except TypeError as error:
        raise OpTypeError(
            "Sequential", f"{value!r} cannot be hashed", mend="give a function or a pytree"
        ) from error
    return Function(value)
