"""Activations by name, as the parameter ``activation`` of fused ops holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxpress.nnops.errors import OpError, OpTypeError
from jaxpress.nnops.settings import static_value

__all__ = ["Activation", "activation_entries", "activation_names", "register", "to_activation"]


@dataclass(frozen=True)
class _Entry:
    reference: Callable[..., Any]
    op: Callable[..., Any]
    defaults: Mapping[str, Any]


_TABLE: dict[str, _Entry] = {}
_ALIASES: dict[str, str] = {}


@dataclass(frozen=True, repr=False)
class Activation:
    """The name of an elementwise activation and its parameters; frozen, hashable, short in print.

    Attributes:
        name: of the op, such as ``"leaky_relu"``.
        params: pairs of parameter and value, all of them, sorted.
    """

    name: str
    params: tuple[tuple[str, Any], ...] = ()

    def __repr__(self) -> str:
        """Reads as a person would write it: ``relu``, ``leaky_relu(negative_slope=0.2)``."""
        inner = ", ".join(f"{k}={v!r}" for k, v in self.params)
        return f"{self.name}({inner})" if inner else self.name

    def __call__(self, x: Any) -> Any:
        """Applies the activation as its named op."""
        return _TABLE[self.name].op(x, **dict(self.params))

    def reference(self, x: Any) -> Any:
        """Applies the plain function that defines it, as inside an op's own computation."""
        return _TABLE[self.name].reference(x, **dict(self.params))


def register(
    name: str,
    op: Callable[..., Any],
    reference: Callable[..., Any],
    defaults: Mapping[str, Any] | None = None,
    aliases: tuple[str, ...] = (),
) -> None:
    """Lets fused ops name an activation.

    Args:
        name: what people write.
        op: the public function that binds the named op.
        reference: the plain function that it stands for.
        defaults: its static parameters.
        aliases: other names that mean the same.
    """
    _TABLE[name] = _Entry(reference, op, dict(defaults or {}))
    _ALIASES.update(dict.fromkeys(aliases, name))


def activation_names() -> tuple[str, ...]:
    """Every name that ``activation=`` takes, aliases included.

    Example:
        >>> from jaxpress import nnops
        >>> "leaky_relu" in nnops.activation_names()
        True
    """
    return tuple(sorted((*_TABLE, *_ALIASES)))


def activation_entries() -> Mapping[str, Any]:
    """Each activation's ``reference``, ``op`` and ``defaults`` by name, aliases left out.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.activation_entries()["leaky_relu"].defaults
        {'negative_slope': 0.01}
    """
    return dict(_TABLE)


def to_activation(spec: Any, op: str = "activation") -> Activation | None:
    """An activation as people write it, in its one canonical form.

    Defaults are filled in and aliases resolved, so equal activations are equal objects.

    Args:
        spec: None, a name, ``(name, {parameter: value})``, or an `Activation`.
        op: who asks, for the error.

    Returns:
        The `Activation`, or None for none (``"identity"`` means none too).

    Raises:
        OpError: the name or a parameter is unknown.
        OpTypeError: ``spec`` or a parameter's value has another type.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.to_activation(("leaky_relu", {"negative_slope": 0.2}))
        leaky_relu(negative_slope=0.2)
    """
    if spec is None or spec == "identity":
        return None
    given: Any
    if isinstance(spec, Activation):
        name, given = spec.name, spec.params
    elif isinstance(spec, str):
        name, given = spec, ()
    elif isinstance(spec, tuple | list) and len(spec) == 2 and isinstance(spec[0], str):
        name, given = spec
    else:
        raise OpTypeError(
            op,
            f"activation is {spec!r}",
            mend="give None, a name such as 'relu', or ('leaky_relu', {'negative_slope': 0.2})",
        )
    name = _ALIASES.get(name, name)
    entry = _TABLE.get(name)
    if entry is None:
        raise OpError(op, f"no activation is named {name!r}", mend=f"one of {activation_names()}")
    given = dict(given)
    unknown = sorted(set(given) - set(entry.defaults))
    if unknown:
        takes = sorted(entry.defaults) or "no parameters"
        raise OpError(op, f"activation {name} has no parameters {unknown}", mend=f"takes {takes}")
    params = {
        k: static_value(op, f"{name}'s {k}", given.get(k, default), default)
        for k, default in entry.defaults.items()
    }
    return Activation(name, tuple(sorted(params.items())))
