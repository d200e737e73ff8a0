"""Normalising layers."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxpress.nnops import initializers
from jaxpress.nnops.batch_norm import batch_norm
from jaxpress.nnops.batch_norm_train import batch_norm_train
from jaxpress.nnops.group_norm import group_norm, instance_norm
from jaxpress.nnops.layer_norm import layer_norm
from jaxpress.nnops.layers.layer import Layer, buffer, drawn, keys, layer, setting
from jaxpress.nnops.rms_norm import rms_norm

__all__ = ["BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm"]


def _affine(
    key: Any,
    shape: tuple[int, ...],
    use_scale: bool,
    use_bias: bool,
    scale_init: Any,
    bias_init: Any,
    dtype: Any,
) -> tuple[Any, Any]:
    for_scale, for_bias = keys(key, 2)
    return (
        drawn(scale_init, for_scale, shape, dtype) if use_scale else None,
        drawn(bias_init, for_bias, shape, dtype) if use_bias else None,
    )


@layer
class BatchNorm(Layer):
    """Batch normalisation, `batch_norm_train` in training and `batch_norm` else.

    A call gives ``(y, layer)``: in training, the layer with its running statistics moved; else the
    layer as it is. The statistics are buffers: see `trainable`.

    Attributes:
        mean: (features,), the running mean.
        var: (features,), the running variance.
        scale: (features,), or None.
        bias: (features,), or None.
        axis: x's feature axis.
        momentum: how much of the running statistics stays after a call.
        epsilon: added to the variance.
        axis_name: of mapped axes whose parts of the batch count together.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> norm = nnops.BatchNorm.init(None, 1, momentum=0.5)
        >>> y, norm = norm(jnp.array([[1.0], [3.0]]))
        >>> norm.mean.tolist(), norm.var.tolist()
        ([1.0], [1.0])
    """

    mean: Any = buffer()
    var: Any = buffer()
    scale: Any = None
    bias: Any = None
    axis: int = setting(default=-1, kw_only=True)
    momentum: float = setting(default=0.9, kw_only=True)
    epsilon: float = setting(default=1e-5, kw_only=True)
    axis_name: Any = setting(default=None, kw_only=True)

    @classmethod
    def init(
        cls,
        key: Any,
        features: int,
        *,
        use_scale: bool = True,
        use_bias: bool = True,
        scale_init: Any = initializers.ones,
        bias_init: Any = initializers.zeros,
        dtype: Any = jnp.float32,
        **settings: Any,
    ) -> BatchNorm:
        """A layer with new parameters, running mean 0 and variance 1.

        Args:
            key: a random key; None will do unless an initializer draws.
            features: of x.
            use_scale: whether there is a scale.
            use_bias: whether there is a bias.
            scale_init: of the scale.
            bias_init: of the bias.
            dtype: of parameters and statistics.
            **settings: the layer's own.

        Returns:
            The layer.
        """
        affine = _affine(key, (features,), use_scale, use_bias, scale_init, bias_init, dtype)
        return cls(jnp.zeros(features, dtype), jnp.ones(features, dtype), *affine, **settings)

    @property
    def stateful(self) -> bool:
        """True."""
        return True

    def __call__(self, x: Any, *, training: bool = True) -> tuple[jax.Array, BatchNorm]:
        """``(y, layer)``; see the class."""
        operands = (x, self.mean, self.var, self.scale, self.bias)
        if not training:
            return batch_norm(*operands, axis=self.axis, epsilon=self.epsilon), self
        y, (mean, var) = batch_norm_train(
            *operands,
            axis=self.axis,
            momentum=self.momentum,
            epsilon=self.epsilon,
            axis_name=self.axis_name,
        )
        return y, dataclasses.replace(self, mean=mean, var=var)

    def in_chain(self, x: Any, *, key: Any, training: bool) -> tuple[Any, Layer]:
        """See `Layer`."""
        del key
        return self(x, training=training)


@layer
class LayerNorm(Layer):
    """Layer normalisation, `layer_norm`.

    Attributes:
        scale: of the shape of the normalised axes, or None.
        bias: likewise, or None.
        axis: the axes to normalise over, one or several.
        epsilon: added to the variance.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.LayerNorm(epsilon=0.0)([1.0, 3.0]).tolist()
        [-1.0, 1.0]
    """

    scale: Any = None
    bias: Any = None
    axis: Any = setting(default=-1, kw_only=True)
    epsilon: float = setting(default=1e-5, kw_only=True)

    @classmethod
    def init(
        cls,
        key: Any,
        features: int | tuple[int, ...],
        *,
        use_scale: bool = True,
        use_bias: bool = True,
        scale_init: Any = initializers.ones,
        bias_init: Any = initializers.zeros,
        dtype: Any = jnp.float32,
        **settings: Any,
    ) -> LayerNorm:
        """A layer with new parameters.

        Args:
            key: a random key; None will do unless an initializer draws.
            features: of x along the normalised axes; a tuple for several.
            use_scale: whether there is a scale.
            use_bias: whether there is a bias.
            scale_init: of the scale.
            bias_init: of the bias.
            dtype: of the parameters.
            **settings: the layer's own; for several axes, ``axis``.

        Returns:
            The layer.
        """
        shape = (features,) if isinstance(features, int) else tuple(features)
        affine = _affine(key, shape, use_scale, use_bias, scale_init, bias_init, dtype)
        return cls(*affine, **settings)

    def __call__(self, x: Any) -> jax.Array:
        """Normalises x; see `layer_norm`."""
        return layer_norm(x, self.scale, self.bias, axis=self.axis, epsilon=self.epsilon)


@layer
class RMSNorm(Layer):
    """Root mean square normalisation, `rms_norm`.

    Attributes:
        scale: of the shape of the normalised axes, or None.
        axis: the axes to normalise over, one or several.
        epsilon: added to the mean square.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.RMSNorm(epsilon=0.0)([3.0, 3.0]).tolist()
        [1.0, 1.0]
    """

    scale: Any = None
    axis: Any = setting(default=-1, kw_only=True)
    epsilon: float = setting(default=1e-6, kw_only=True)

    @classmethod
    def init(
        cls,
        key: Any,
        features: int | tuple[int, ...],
        *,
        scale_init: Any = initializers.ones,
        dtype: Any = jnp.float32,
        **settings: Any,
    ) -> RMSNorm:
        """A layer with a new scale.

        Args:
            key: a random key; None will do unless the initializer draws.
            features: of x along the normalised axes; a tuple for several.
            scale_init: of the scale.
            dtype: of the scale.
            **settings: the layer's own; for several axes, ``axis``.

        Returns:
            The layer.
        """
        shape = (features,) if isinstance(features, int) else tuple(features)
        return cls(drawn(scale_init, key, shape, dtype), **settings)

    def __call__(self, x: Any) -> jax.Array:
        """Normalises x; see `rms_norm`."""
        return rms_norm(x, self.scale, axis=self.axis, epsilon=self.epsilon)


@layer
class GroupNorm(Layer):
    """Group normalisation, `group_norm`.

    Attributes:
        scale: (features,), or None.
        bias: (features,), or None.
        groups: into how many groups the features are split.
        axis: x's feature axis; axis 0 counts the examples.
        epsilon: added to the variance.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> nnops.GroupNorm(groups=1, epsilon=0.0)(jnp.array([[1.0, 3.0]])).tolist()
        [[-1.0, 1.0]]
    """

    scale: Any = None
    bias: Any = None
    groups: int = setting(kw_only=True)
    axis: int = setting(default=-1, kw_only=True)
    epsilon: float = setting(default=1e-5, kw_only=True)

    @classmethod
    def init(
        cls,
        key: Any,
        features: int,
        *,
        groups: int,
        use_scale: bool = True,
        use_bias: bool = True,
        scale_init: Any = initializers.ones,
        bias_init: Any = initializers.zeros,
        dtype: Any = jnp.float32,
        **settings: Any,
    ) -> GroupNorm:
        """A layer with new parameters.

        Args:
            key: a random key; None will do unless an initializer draws.
            features: of x.
            groups: a divisor of features.
            use_scale: whether there is a scale.
            use_bias: whether there is a bias.
            scale_init: of the scale.
            bias_init: of the bias.
            dtype: of the parameters.
            **settings: the layer's others.

        Returns:
            The layer.
        """
        affine = _affine(key, (features,), use_scale, use_bias, scale_init, bias_init, dtype)
        return cls(*affine, groups=groups, **settings)

    def __call__(self, x: Any) -> jax.Array:
        """Normalises x; see `group_norm`."""
        return group_norm(
            x, self.scale, self.bias, groups=self.groups, axis=self.axis, epsilon=self.epsilon
        )


@layer
class InstanceNorm(Layer):
    """Instance normalisation, `instance_norm`.

    Attributes:
        scale: (features,), or None.
        bias: (features,), or None.
        axis: x's feature axis; axis 0 counts the examples.
        epsilon: added to the variance.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> nnops.InstanceNorm(epsilon=0.0)(jnp.array([[[1.0], [3.0]]])).ravel().tolist()
        [-1.0, 1.0]
    """

    scale: Any = None
    bias: Any = None
    axis: int = setting(default=-1, kw_only=True)
    epsilon: float = setting(default=1e-5, kw_only=True)

    @classmethod
    def init(
        cls,
        key: Any,
        features: int,
        *,
        use_scale: bool = True,
        use_bias: bool = True,
        scale_init: Any = initializers.ones,
        bias_init: Any = initializers.zeros,
        dtype: Any = jnp.float32,
        **settings: Any,
    ) -> InstanceNorm:
        """A layer with new parameters.

        Args:
            key: a random key; None will do unless an initializer draws.
            features: of x.
            use_scale: whether there is a scale.
            use_bias: whether there is a bias.
            scale_init: of the scale.
            bias_init: of the bias.
            dtype: of the parameters.
            **settings: the layer's own.

        Returns:
            The layer.
        """
        affine = _affine(key, (features,), use_scale, use_bias, scale_init, bias_init, dtype)
        return cls(*affine, **settings)

    def __call__(self, x: Any) -> jax.Array:
        """Normalises x; see `instance_norm`."""
        return instance_norm(x, self.scale, self.bias, axis=self.axis, epsilon=self.epsilon)
