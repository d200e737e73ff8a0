"""How many floating-point operations one equation takes: a rule for each kind of primitive.

A multiplication and an addition are one operation each, so a product of matrices counts two for
each pair of numbers that meet. An elementwise function counts one for each element of its result,
a transcendental one like ``exp`` too, and so do integers, booleans and complex numbers. Moving
data is free. A size that is not known yet (a symbolic dimension) counts as 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxpress.capture.graph import Literal, Node, Value

__all__ = ["has_rule", "is_symbolic", "known", "nbytes", "own_flops", "size"]

# What only moves, makes, names or reinterprets data, and JAX's bookkeeping.
MOVES_DATA = frozenset(  # as one text, since one name a line would hide the rest of the file
    """
    axis_index bitcast_convert_type broadcast_in_dim broadcast_to concatenate conj_transpose
    convert_element_type copy copy_p core_call create_token device_put dimension_size dim_as_value
    dynamic_slice dynamic_update_slice empty expand_dims freeze gather get imag inspect_sharding
    iota layout_constraint name new_ref mutable_array optimization_barrier pad platform_index
    pbroadcast preduced pvary real reduced_vary_cast reduced_vary_cast_p ref_get reshape reshard
    rev scatter shape_assertion sharding_constraint slice split squeeze stop_gradient swap tie tile
    transpose unstack stack unreduced_psum all_gather all_to_all ppermute pgather
    psend precv after_all debug_callback debug_print random_wrap random_unwrap random_seed
    random_clone with_memory_space_constraint vary_unreduced_cast vary_unreduced_cast_p
    custom_lin create_linear lu_pivots_to_permutation
    """.split()  # noqa: SIM905
)

# Called back into Python or handed to a library: nobody can say.
OPAQUE = frozenset(
    """
    call_exported cudnn_fusion custom_partitioning ffi_call io_callback pure_callback
    custom_call tpu_custom_call
    """.split()  # noqa: SIM905
)

# Operands may all have the result's shape, and still it is no elementwise function.
JOINT = frozenset({"dot_product_attention", "rotary_embedding"})


def size(value: Any) -> int:
    """How many elements an array has; a symbolic dimension counts as 1."""
    return math.prod(known(d) for d in value.shape)


def known(dim: Any) -> int:
    """A dimension as a number; 1 for a symbolic one."""
    return int(dim) if isinstance(dim, int | np.integer) else 1


def is_symbolic(value: Value) -> bool:
    """Whether a dimension of ``value`` is not known yet."""
    return not all(isinstance(d, int | np.integer) for d in value.shape)


def nbytes(value: Value) -> int:
    """An array's bytes; 0 for a literal, a token, and what has no size of its own."""
    if isinstance(value, Literal):
        return 0
    aval = getattr(value.aval, "inner_aval", value.aval)  # a reference's array
    itemsize = getattr(getattr(aval, "dtype", None), "itemsize", 0)
    return math.prod(known(d) for d in getattr(aval, "shape", ())) * itemsize


def has_rule(op: str) -> bool:
    """Whether the op's cost is told by its operands alone, bodies or not."""
    return op in _RULES or op in MOVES_DATA


def own_flops(node: Node) -> int | None:
    """The operations of a node without bodies; ``None`` where there is no rule for it."""
    op = node.op
    if op in MOVES_DATA:
        return 0
    rule = _RULES.get(op)
    if rule is not None:
        return int(rule(node))
    if op in OPAQUE or op in JOINT or not node.outputs:
        return None
    return _elementwise(node)


def _result(node: Node) -> int:
    return size(node.outputs[0])


def _operand(node: Node) -> int:
    return size(node.inputs[0])


def _elementwise(node: Node) -> int | None:
    """One operation an element, for any primitive whose operands stretch to its result's shape."""
    shape = node.outputs[0].shape
    for v in node.inputs:
        if v.shape != shape and v.shape != ():
            if len(v.shape) != len(shape):
                return None
            if any(d != full and d != 1 for d, full in zip(v.shape, shape, strict=True)):
                return None
    return sum(size(v) for v in node.outputs)


def _dot(node: Node) -> int:
    (contracted, _), _ = node.params["dimension_numbers"]
    lhs = node.inputs[0]
    return 2 * _result(node) * math.prod(known(lhs.shape[i]) for i in contracted)


def _ragged_dot(node: Node) -> int:
    # (m, k) x (g, k, n) -> (m, n): each row meets the matrix of its group alone.
    return 2 * _result(node) * known(node.inputs[0].shape[-1])


def _conv(node: Node) -> int:
    """Two for each tap, on the padding too, but not on the zeros of a dilated input.

    Those (in a transposed convolution) are left out by their share, all but one in
    ``prod(lhs_dilation)``, which is not exact at the edges.
    """
    kernel = node.inputs[1]
    spec = node.params["dimension_numbers"].rhs_spec
    taps = math.prod(known(kernel.shape[i]) for i in spec[2:])
    # The kernel's input features are those of one group already.
    macs = _result(node) * taps * known(kernel.shape[spec[1]])
    return 2 * macs // math.prod(node.params.get("lhs_dilation") or (1,))


def _window(node: Node) -> int:
    return _result(node) * math.prod(known(d) for d in node.params["window_dimensions"])


def _window_of_source(node: Node) -> int:
    return _operand(node) * math.prod(known(d) for d in node.params["window_dimensions"])


def _sort(node: Node) -> int:
    """Comparisons of a merge sort: n log2(n) for each line that is sorted."""
    x = node.inputs[0]
    n = known(x.shape[node.params["dimension"]]) if x.shape else 1
    return size(x) * _log2(n) * node.params.get("num_keys", 1)


def _top_k(node: Node) -> int:
    return _operand(node) * _log2(node.params.get("k", 2))


def _log2(n: int) -> int:
    return max(1, math.ceil(math.log2(n))) if n > 1 else 1


def _fft(node: Node) -> int:
    """5 n log2(n) for a complex transform of n points, half of that where one side is real."""
    lengths = [known(n) for n in node.params["fft_lengths"]]
    n = math.prod(lengths)
    kind = getattr(node.params["fft_type"], "name", str(node.params["fft_type"]))
    real = "RFFT" in kind
    shape = (node.outputs if kind == "IRFFT" else node.inputs)[0].shape
    batch = math.prod(known(d) for d in shape[: len(shape) - len(lengths)])
    return round(batch * 5 * n * math.log2(n) * (0.5 if real else 1)) if n > 1 else 0


def _updates(node: Node) -> int:
    return size(node.inputs[2])


def _threefry(node: Node) -> int:
    """Twenty rounds of add, rotate and xor, and the key's injections, a pair of numbers."""
    return 50 * sum(size(v) for v in node.outputs)


def _random_bits(node: Node) -> int:
    return 50 * _result(node)


def _matrix(node: Node) -> tuple[int, int, int]:
    """Batch, rows and columns of the first operand."""
    *batch, m, n = map(known, node.inputs[0].shape)
    return math.prod(batch), m, n


def _dense_factor(coefficient: float) -> Callable[[Node], float]:
    """``coefficient * rows * columns * min(rows, columns)``: the leading term alone."""

    def rule(node: Node) -> float:
        batch, m, n = _matrix(node)
        return coefficient * batch * m * n * min(m, n)

    return rule


def _triangular_solve(node: Node) -> int:
    a, b = node.inputs[0], node.inputs[1]
    return size(b) * known(a.shape[-1])


_RULES: dict[str, Callable[[Node], float]] = {
    "dot_general": _dot,
    "ragged_dot_general": _ragged_dot,
    "ragged_dot": _ragged_dot,
    "conv_general_dilated": _conv,
    "reduce_window_sum": _window,
    "reduce_window_max": _window,
    "reduce_window_min": _window,
    "select_and_scatter_add": _window_of_source,
    "select_and_gather_add": _window,
    "sort": _sort,
    "top_k": _top_k,
    "approx_top_k": _top_k,
    "fft": _fft,
    "addupdate": lambda node: size(node.inputs[1]),
    "threefry2x32": _threefry,
    "random_bits": _random_bits,
    "random_split": _random_bits,
    "random_fold_in": _random_bits,
    "rng_bit_generator": lambda node: 50 * size(node.outputs[-1]),
    "rng_uniform": _result,
    "cholesky": _dense_factor(1 / 3),
    "lu": _dense_factor(2 / 3),
    "geqrf": _dense_factor(4 / 3),
    "qr": _dense_factor(4 / 3),
    "householder_product": _dense_factor(4 / 3),
    "eigh": _dense_factor(9),
    "eig": _dense_factor(25),
    "svd": _dense_factor(21),
    "schur": _dense_factor(25),
    "hessenberg": _dense_factor(10 / 3),
    "tridiagonal": _dense_factor(4 / 3),
    "triangular_solve": _triangular_solve,
    "tridiagonal_solve": lambda node: 8 * size(node.inputs[-1]),
    **{f"scatter-{kind}": _updates for kind in ("add", "sub", "mul", "min", "max")},
    **{f"reduce_{kind}": _operand for kind in ("sum", "prod", "max", "min", "and", "or", "xor")},
    **dict.fromkeys(("argmax", "argmin"), _operand),
    **{f"cum{kind}": _operand for kind in ("sum", "prod", "max", "min", "logsumexp")},
    **{
        kind: lambda node: sum(size(v) for v in node.inputs)
        for kind in ("psum", "psum_invariant", "pmax", "pmin", "reduce_scatter")
    },
}
