"""Shapes of convolutions: dimension numbers, padding, and the checks of operands."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.export
from jax import lax

from jaxpress.nnops.errors import OpError, OpTypeError

__all__ = [
    "check_operands",
    "conv_shape",
    "explicit_padding",
    "layout",
    "per_dimension",
    "resolve_padding",
    "specs",
]

_LETTERS = {0: "", 1: "W", 2: "HW", 3: "DHW"}


def _spatial_letters(rank: int) -> str:
    return _LETTERS.get(rank) or "".join(chr(ord("0") + i) for i in range(rank))


def layout(dimension_numbers: Any, x: Any, w: Any) -> Any:
    """Dimension numbers in the form that the primitive holds: three strings.

    Spatial letters are W, HW, DHW, or digits from four on. Where the kernel's spatial dimensions
    are not in rising order (which three strings, as lax reads them, cannot say), the
    ``lax.ConvDimensionNumbers`` itself is kept.

    Args:
        dimension_numbers: None (channels last, HWIO), three strings, or lax.ConvDimensionNumbers.
        x: the input, for its rank.
        w: the kernel, for its rank.

    Returns:
        Such as ``("NHWC", "HWIO", "NHWC")``.

    Raises:
        OpError: ranks differ or the dimension numbers do not fit them.
    """
    rank = x.ndim - 2
    if rank < 1 or w.ndim != x.ndim:
        raise OpError(
            "conv",
            f"x has {x.ndim} dimensions and w has {w.ndim}",
            {"x": x, "w": w},
            "both have a batch (or output) and a feature dimension beside the spatial ones; "
            "give a single example a leading axis, x[None]",
        )
    letters = _spatial_letters(rank)
    if dimension_numbers is None:
        return (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    try:
        numbers = lax.conv_dimension_numbers(x.shape, w.shape, dimension_numbers)
    except (TypeError, ValueError, AssertionError) as error:
        raise OpError(
            "conv",
            f"dimension_numbers are {dimension_numbers!r}: {error}",
            {"x": x, "w": w},
            f"give three strings such as {(f'N{letters}C', f'{letters}IO', f'N{letters}C')}",
        ) from error
    spatial = numbers.rhs_spec[2:]
    if list(spatial) != sorted(spatial):
        return numbers
    return (
        _spell(numbers.lhs_spec, "NC" + letters),
        _spell(numbers.rhs_spec, "OI" + letters),
        _spell(numbers.out_spec, "NC" + letters),
    )


def _spell(spec: Sequence[int], letters: str) -> str:
    out = [""] * len(spec)
    for position, letter in zip(spec, letters, strict=True):
        out[position] = letter
    return "".join(out)


def specs(dimension_numbers: Any) -> lax.ConvDimensionNumbers:
    """The positions that `layout`'s result stands for.

    Example:
        >>> from jaxpress.nnops.conv_geometry import specs
        >>> specs(("NHWC", "HWIO", "NHWC")).rhs_spec
        (3, 2, 0, 1)
    """
    if isinstance(dimension_numbers, lax.ConvDimensionNumbers):
        return dimension_numbers
    letters = _spatial_letters(len(dimension_numbers[0]) - 2)
    lhs, rhs, out = (
        tuple(spec.index(letter) for letter in order + letters)
        for spec, order in zip(dimension_numbers, ("NC", "OI", "NC"), strict=True)
    )
    return lax.ConvDimensionNumbers(lhs, rhs, out)


def per_dimension(what: str, value: Any, rank: int, op: str = "conv") -> tuple[int, ...]:
    """One positive integer for each dimension.

    Raises:
        OpError: there are more or fewer, or one is below 1.
        OpTypeError: one is no integer.
    """
    given = tuple(value) if isinstance(value, Iterable) else (value,) * rank
    try:
        out = tuple(operator.index(v) for v in given)
    except TypeError as error:
        raise OpTypeError(op, f"{what} is {value!r}", mend=f"give one, or {rank}, ints") from error
    if len(out) != rank or any(v < 1 for v in out):
        raise OpError(op, f"{what} is {value!r}", mend=f"give one, or {rank}, integers from 1")
    return out


def check_operands(x: Any, w: Any, params: Mapping[str, Any]) -> None:
    """Checks that a kernel fits its input.

    Raises:
        OpError: ranks, channels or groups do not agree.
    """
    numbers, groups = specs(params["dimension_numbers"]), params["groups"]
    if not x.ndim == w.ndim == len(numbers.lhs_spec):
        raise OpError(
            "conv",
            f"x has {x.ndim} dimensions, w has {w.ndim}, "
            f"dimension_numbers have {len(numbers.lhs_spec)}",
            {"x": x, "w": w},
            "give all three the same rank",
        )
    channels = x.shape[numbers.lhs_spec[1]]
    out, inner = (w.shape[i] for i in numbers.rhs_spec[:2])
    if channels != inner * groups:
        raise OpError(
            "conv",
            f"x has {channels} channels (axis {numbers.lhs_spec[1]}), and w takes "
            f"{inner} (axis {numbers.rhs_spec[1]}) in each of {groups} groups",
            {"x": x, "w": w},
            f"channels must equal w's input features times groups; "
            f"dimension_numbers are {params['dimension_numbers']}",
        )
    if any(w.shape[i] == 0 for i in numbers.rhs_spec[2:]):
        raise OpError(
            "conv", "w covers no position", {"x": x, "w": w}, "its spatial sizes are 1 or more"
        )
    if out % groups != 0:
        raise OpError(
            "conv",
            f"w makes {out} features (axis {numbers.rhs_spec[0]}), which {groups} groups "
            "cannot share evenly",
            {"x": x, "w": w},
            "give a number of features that groups divides",
        )


def conv_shape(x: Any, w: Any, params: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape of a convolution whose operands `check_operands` let pass.

    Args:
        x: the input.
        w: the kernel.
        params: conv's static parameters.

    Returns:
        The shape, in conv's layout; None where it is symbolic or the kernel does not fit even once,
        which lax knows what to say of.
    """
    numbers = specs(params["dimension_numbers"])
    shape = [0] * x.ndim
    shape[numbers.out_spec[0]] = x.shape[numbers.lhs_spec[0]]
    shape[numbers.out_spec[1]] = w.shape[numbers.rhs_spec[0]]
    spatial = zip(*(s[2:] for s in numbers), strict=True)
    sliding = zip(params["strides"], params["dilation"], params["padding"], strict=True)
    for (at, tap_axis, to), (stride, dilation, pair) in zip(spatial, sliding, strict=True):
        size, step = x.shape[at], stride
        if params["transposed"]:
            size, step = (size - 1) * stride + 1, 1
        taps = w.shape[tap_axis]
        if not all(isinstance(n, int) for n in (size, taps, *pair)) or x.shape[at] < 1 or taps < 1:
            return None
        room = size + pair[0] + pair[1] - ((taps - 1) * dilation + 1)
        if room < 0 or min(pair) < 0:
            return None
        shape[to] = room // step + 1
    return tuple(shape)


def resolve_padding(
    padding: Any,
    x: Any,
    w: Any,
    dimension_numbers: Any,
    strides: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
) -> tuple[tuple[Any, Any], ...]:
    """Padding as pairs (low, high) of each spatial dimension.

    Args:
        padding: SAME, SAME_LOWER, VALID, CAUSAL (one spatial dimension), an int, or for each
            spatial dimension an int or a pair. Where ``transposed``, SAME and VALID are those of
            the convolution whose gradient this is, and numbers pad the dilated input, both as in
            jax.lax.conv_transpose.
        x: the input.
        w: the kernel.
        dimension_numbers: `layout`'s result.
        strides: of each spatial dimension.
        dilation: of the kernel, likewise.
        transposed: whether strides dilate the input.

    Returns:
        The pairs; symbolic where ``x``'s spatial dimensions are and strides are not 1.

    Raises:
        OpError: the padding is none of these.
    """
    numbers = specs(dimension_numbers)
    sizes = [x.shape[i] for i in numbers.lhs_spec[2:]]
    extents = [
        (w.shape[i] - 1) * d + 1 for i, d in zip(numbers.rhs_spec[2:], dilation, strict=True)
    ]
    if not isinstance(padding, str):
        return explicit_padding(padding, len(sizes))
    name = padding.upper()
    if transposed and name in ("SAME", "VALID"):
        return tuple(map(_transposed_pair, extents, strides, [name] * len(sizes)))
    if not transposed and name in ("SAME", "SAME_LOWER", "VALID"):
        pairs = lax.padtype_to_pads(sizes, extents, strides, name)
        return tuple((low, high) for low, high in pairs)
    if not transposed and name == "CAUSAL" and len(sizes) == 1:
        return ((extents[0] - 1, 0),)
    raise OpError(
        "conv",
        f"padding is {padding!r}" + (" and transposed is True" if transposed else ""),
        {"x": x, "w": w},
        "give SAME, VALID, SAME_LOWER (not transposed), CAUSAL (not transposed, one spatial "
        "dimension), an integer, or pairs",
    )


def _transposed_pair(extent: int, stride: int, name: str) -> tuple[int, int]:
    # The result of SAME has stride times the input's size, that of VALID as much more as the
    # kernel outgrows the stride; JAX puts what SAME pads on the left where strides are large.
    if name == "VALID":
        return extent - 1, max(stride, extent) - 1
    total = extent + stride - 2
    low = extent - 1 if stride > extent - 1 else -(-total // 2)
    return low, total - low


def explicit_padding(padding: Any, rank: int, op: str = "conv") -> tuple[tuple[Any, Any], ...]:
    """Numbers as pairs (low, high) of each dimension.

    Raises:
        OpError: there are more or fewer than ``rank``.
        OpTypeError: one is no integer.
    """
    given = tuple(padding) if isinstance(padding, Iterable) else (padding,) * rank
    pairs = tuple(tuple(p) if isinstance(p, Iterable) else (p, p) for p in given)
    if len(pairs) != rank or any(len(p) != 2 for p in pairs):
        raise OpError(
            op,
            f"padding is {padding!r}",
            mend=f"give a name, an integer, or {rank} integers or pairs (low, high)",
        )
    return tuple((_dim(low, op), _dim(high, op)) for low, high in pairs)


def _dim(value: Any, op: str) -> Any:
    if jax.export.is_symbolic_dim(value):
        return value
    try:
        return operator.index(value)
    except TypeError as error:
        raise OpTypeError(op, f"padding holds {value!r}", mend="give integers") from error
