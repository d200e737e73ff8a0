"""Sequences of different lengths as one array: padded, or packed several to a row.

Sizes depend on the data, so all of this runs on the host, with NumPy, before anything is traced.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpress.nnops.errors import OpError, OpTypeError

__all__ = ["PackedSequences", "pack_sequences", "pad_sequences", "unpack_sequences"]


class PackedSequences(NamedTuple):
    """Several sequences to a row.

    Attributes:
        values: (rows, maxlen, ...), the sequences one after another, then padding.
        segment_ids: int32 (rows, maxlen): 1 for a row's first sequence, 2 for its second, ..., 0
            for padding; `segment_mask` makes attention's mask of them.
        positions: int32 (rows, maxlen): each entry's place in its own sequence.
        places: for each sequence in the order given, its row, its start and its length.
    """

    values: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    places: tuple[tuple[int, int, int], ...]


def _as_arrays(op: str, sequences: Iterable[Any]) -> list[np.ndarray]:
    arrays = []
    for i, sequence in enumerate(sequences):
        try:
            array = np.asarray(sequence)
        except Exception as error:  # a tracer: JAX's own classes of errors, by version
            raise OpTypeError(
                op, f"sequence {i} has no values yet", mend="call it outside of jit, on the host"
            ) from error
        if array.ndim < 1 or array.dtype == object:
            raise OpError(op, f"sequence {i} has no axis of positions", {"sequence": array})
        arrays.append(array)
    if not arrays:
        raise OpError(op, "there are no sequences", mend="give one or more")
    if len({a.shape[1:] for a in arrays}) > 1:
        named = {f"sequences[{i}]": a for i, a in enumerate(arrays[:4])}
        raise OpError(op, "entries differ in shape", named, "sequences differ in length alone")
    return arrays


def _joint_dtype(arrays: list[np.ndarray]) -> Any:
    # An empty list is float64 to NumPy, and would make floats of token ids.
    full = [a for a in arrays if a.size] or arrays
    return np.result_type(*[a.dtype for a in full])


def pad_sequences(
    sequences: Iterable[Any],
    maxlen: int | None = None,
    *,
    value: Any = 0,
    side: str = "right",
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of different lengths as one array, filled up with ``value``.

    Args:
        sequences: arrays or lists (length_i, ...), equal but for their lengths.
        maxlen: positions in the result; the greatest length if left out.
        value: what fills up.
        side: ``"right"`` or ``"left"``: where padding goes.

    Returns:
        ``(padded, lengths)``: NumPy arrays (B, maxlen, ...), and int32 (B,) as `sequence_mask`
        takes them.

    Raises:
        OpError: there is none, entries differ in shape, one is longer than ``maxlen``, or the side
            is unknown.
        OpTypeError: sequences are traced.

    Source: tf.keras.utils.pad_sequences.

    Example:
        >>> from jaxpress import nnops
        >>> padded, lengths = nnops.pad_sequences([[1, 2, 3], [4]])
        >>> padded.tolist(), lengths.tolist()
        ([[1, 2, 3], [4, 0, 0]], [3, 1])
    """
    if side not in ("right", "left"):
        raise OpError("pad_sequences", f"side is {side!r}", mend="give 'right' or 'left'")
    arrays = _as_arrays("pad_sequences", sequences)
    lengths = np.array([len(a) for a in arrays], np.int32)
    size = int(lengths.max()) if maxlen is None else maxlen
    _check_longest("pad_sequences", lengths, size)
    out = np.full((len(arrays), size, *arrays[0].shape[1:]), value, _joint_dtype(arrays))
    for row, array in zip(out, arrays, strict=True):
        if side == "right":
            row[: len(array)] = array
        else:
            row[size - len(array) :] = array
    return out, lengths


def _check_longest(op: str, lengths: Any, maxlen: int) -> None:
    longest = int(np.max(lengths))
    if longest > maxlen:
        raise OpError(
            op,
            f"a sequence has {longest} positions, and maxlen is {maxlen}",
            mend="cut the sequence, or raise maxlen",
        )


def pack_sequences(sequences: Sequence[Any], maxlen: int, *, value: Any = 0) -> PackedSequences:
    """Sequences of different lengths packed into rows of ``maxlen``, several to a row.

    Longest first, each into the first row that has room (first fit decreasing).

    Args:
        sequences: arrays or lists (length_i, ...), equal but for their lengths.
        maxlen: positions in a row.
        value: what fills up.

    Returns:
        `PackedSequences`; `unpack_sequences` takes them apart again.

    Raises:
        OpError: there is none, entries differ in shape, or one is longer than ``maxlen``.
        OpTypeError: sequences are traced.

    Source: Krell et al., 2021, arXiv:2107.02027.

    Example:
        >>> from jaxpress import nnops
        >>> packed = nnops.pack_sequences([[1, 2, 3], [4], [5, 6]], 4)
        >>> packed.values.tolist(), packed.segment_ids.tolist()
        ([[1, 2, 3, 4], [5, 6, 0, 0]], [[1, 1, 1, 2], [1, 1, 0, 0]])
    """
    arrays = _as_arrays("pack_sequences", sequences)
    lengths = [len(a) for a in arrays]
    _check_longest("pack_sequences", lengths, maxlen)
    filled: list[int] = []
    contents: list[list[int]] = []
    for i in sorted(range(len(arrays)), key=lambda i: -lengths[i]):
        row = next((r for r, used in enumerate(filled) if used + lengths[i] <= maxlen), None)
        if row is None:
            row = len(filled)
            filled.append(0)
            contents.append([])
        filled[row] += lengths[i]
        contents[row].append(i)
    shape = (len(filled), maxlen)
    values = np.full((*shape, *arrays[0].shape[1:]), value, _joint_dtype(arrays))
    segment_ids, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    places = [(0, 0, 0)] * len(arrays)
    for row, members in enumerate(contents):
        start = 0
        for number, i in enumerate(members, 1):
            span = slice(start, start + lengths[i])
            values[row, span] = arrays[i]
            segment_ids[row, span] = number
            positions[row, span] = np.arange(lengths[i])
            places[i] = (row, start, lengths[i])
            start += lengths[i]
    return PackedSequences(values, segment_ids, positions, tuple(places))


def unpack_sequences(values: Any, packed: PackedSequences) -> list[Any]:
    """What was computed for packed sequences, one array for each, in the order they came.

    Args:
        values: (rows, maxlen, ...), such as a model's result on ``packed.values``.
        packed: what `pack_sequences` gave.

    Returns:
        A list of arrays (length_i, ...).

    Raises:
        OpError: values do not have the rows and positions that were packed.

    Source: Krell et al., 2021, arXiv:2107.02027.

    Example:
        >>> from jaxpress import nnops
        >>> packed = nnops.pack_sequences([[1, 2], [3]], 4)
        >>> [x.tolist() for x in nnops.unpack_sequences(packed.values, packed)]
        [[1, 2], [3]]
    """
    if tuple(values.shape[:2]) != packed.segment_ids.shape:
        raise OpError(
            "unpack_sequences",
            f"values are not of {packed.segment_ids.shape} rows and positions",
            {"values": values},
            "give an array that was computed from packed.values",
        )
    return [values[row, start : start + length] for row, start, length in packed.places]
