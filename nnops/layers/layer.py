"""What layers are: frozen dataclasses of arrays and settings, which JAX sees as pytrees."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

from jaxpress.nnops.errors import describe

__all__ = ["Layer", "buffer", "keys", "layer", "setting", "trainable"]

T = TypeVar("T", bound=type)


def setting(**kwargs: Any) -> Any:
    """A field that is no array: hashable, part of the pytree's structure."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


def buffer(**kwargs: Any) -> Any:
    """A field of arrays that training moves, but not along a gradient."""
    return dataclasses.field(metadata={"buffer": True}, **kwargs)


class Layer:
    """An op bound to its parameters.

    Frozen: `dataclasses.replace` makes another. As a pytree it goes through ``jax.grad``, ``jit``
    and ``vmap`` like a tuple of its arrays, and an optimiser's updates are a layer too.
    """

    @property
    def stateful(self) -> bool:
        """Whether a call in training gives ``(y, new layer)``, and not y alone."""
        return False

    def in_chain(self, x: Any, *, key: Any, training: bool) -> tuple[Any, Layer]:
        """The one value that a layer behind this one is given, and this layer after the call.

        Args:
            x: what the layer in front gave.
            key: a random key of this layer's own, or None.
            training: whether the model is being trained.

        Returns:
            ``(y, layer)``.
        """
        del key, training
        call: Any = self
        return call(x), self

    def __repr__(self) -> str:
        """Types and shapes in place of arrays; settings that differ from their defaults."""
        shown = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.metadata.get("static"):
                if value != field.default:
                    shown.append(f"{field.name}={value!r}")
            elif value is not None:
                shown.append(f"{field.name}={describe(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass_transform(
    eq_default=False, frozen_default=True, field_specifiers=(dataclasses.field, setting, buffer)
)
def layer(cls: T) -> T:
    """Class decorator: a frozen dataclass that is a pytree, settings in its structure.

    Lists among the settings become tuples, so that they can be hashed.

    Args:
        cls: a subclass of `Layer` with annotated fields; those made by `setting` are static.

    Returns:
        The class.

    Example:
        >>> import jax
        >>> from jaxpress.nnops.layers.layer import Layer, layer, setting
        >>> @layer
        ... class Power(Layer):
        ...     scale: jax.Array
        ...     exponent: int = setting(default=2)
        ...
        ...     def __call__(self, x):
        ...         return self.scale * x**self.exponent
        >>> jax.grad(lambda power: power(3.0))(Power(2.0)).scale.tolist()
        9.0
    """
    settle = cls.__dict__.get("__post_init__")

    def __post_init__(self: Any) -> None:
        for name in static:
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, _frozen(value))
        if settle is not None:
            settle(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    cls = dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
    fields = dataclasses.fields(cls)
    static = [f.name for f in fields if f.metadata.get("static")]
    jax.tree_util.register_dataclass(
        cls, data_fields=[f.name for f in fields if f.name not in static], meta_fields=static
    )
    return cls


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def keys(key: Any, n: int) -> list[Any]:
    """``n`` keys from one, which may be None where nothing is drawn at random."""
    return [None] * n if key is None else list(jax.random.split(key, n))


def drawn(init: Callable[..., Any], key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """A parameter, of exactly the shape and dtype that were asked for."""
    return jnp.asarray(init(key, shape, dtype))


def trainable(layers: Any) -> Any:
    """Which leaves of a pytree of layers an optimiser should move.

    Args:
        layers: any pytree with layers in it.

    Returns:
        The same pytree with True for parameters and False for buffers, such as the running
        statistics of a `BatchNorm`, whose gradients in training are 0; what ``optax.masked`` takes.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> norm = nnops.BatchNorm(jnp.zeros(3), jnp.ones(3), jnp.ones(3))
        >>> mask = nnops.trainable(norm)
        >>> mask.mean, mask.var, mask.scale
        (False, False, True)
    """

    def mask(node: Any) -> Any:
        if not isinstance(node, Layer):
            return True
        changes = {}
        for field in dataclasses.fields(node):  # type: ignore[arg-type]
            if not field.metadata.get("static"):
                value = getattr(node, field.name)
                if field.metadata.get("buffer"):
                    changes[field.name] = jax.tree.map(lambda _: False, value)
                else:
                    changes[field.name] = trainable(value)
        return dataclasses.replace(node, **changes)  # type: ignore[type-var]

    return jax.tree.map(mask, layers, is_leaf=lambda node: isinstance(node, Layer))
