"""Everything that differs between JAX versions, and every use of JAX's private modules.

No other file of jaxpress touches ``jax._src`` or asks for JAX's version. Two lines of JAX are
supported: 0.10 (where ``ClosedJaxpr`` is a class of its own) and 0.12 (where it is ``Jaxpr``).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax._src import checkify as _checkify
from jax._src import config as _config
from jax._src import core as _core
from jax._src import shard_map as _shard_map
from jax._src import source_info_util as _source_info_util
from jax._src.interpreters import partial_eval as _partial_eval
from jax.core import Tracer
from jax.extend import source_info_util
from jax.extend.core import (
    ClosedJaxpr,  # pyright: ignore[reportPrivateImportUsage]  # 0.12 has it, and its stubs do not
    DebugInfo,
    Jaxpr,
    JaxprEqn,
    Literal,
    Primitive,
    Var,
)
from jax.extend.linear_util import wrap_init

__all__ = [
    "CALL_NAMES",
    "CUSTOM_JVP_NAMES",
    "CUSTOM_VJP_NAMES",
    "JIT_NAMES",
    "REMAT_NAMES",
    "ClosedJaxpr",
    "Jaxpr",
    "JaxprEqn",
    "Literal",
    "Primitive",
    "Var",
    "as_closed",
    "bind",
    "bodies_in_params",
    "body_constvars",
    "body_context",
    "closed_parts",
    "context_key",
    "custom_jvp_identity",
    "custom_jvp_rule",
    "enable_x64",
    "in_shard_map",
    "is_body",
    "is_of_an_operand",
    "jit_is_plain",
    "outside_trace",
    "provenance",
    "register_checks",
    "scan_counts",
    "source_frames",
    "trace_closed",
    "trace_flat",
    "trace_primitive",
    "under_jit",
    "under_trace",
    "with_constants",
    "with_weak_type",
    "without_constant_folding",
]

_pe: Any = _partial_eval  # of no type: each version has functions that the other lacks

# A thing may have had several names; all of them are answered to.
JIT_NAMES = frozenset({"jit", "pjit"})
CALL_NAMES = frozenset({"closed_call", "core_call", "call", "core_closed_call", "eval_jaxpr"})
REMAT_NAMES = frozenset({"remat2", "remat", "checkpoint"})
CUSTOM_JVP_NAMES = frozenset({"custom_jvp_call"})
CUSTOM_VJP_NAMES = frozenset({"custom_vjp_call", "custom_vjp_call_jaxpr"})

# What was tried to work with arrays closed over in its body.
_MAY_HOLD_CONSTANTS = (
    JIT_NAMES | CALL_NAMES | CUSTOM_JVP_NAMES | CUSTOM_VJP_NAMES | {"scan", "cond", "while"}
)

_JAXPR_CLASSES_ARE_ONE = ClosedJaxpr is Jaxpr
_trace_context, _NO_TRACE = _core.trace_ctx, (_core.eval_trace, None)


def closed_parts(body: Any) -> tuple[Any, list[Any]]:
    """The open jaxpr of ``body`` and its constants, whichever kind it is.

    On JAX 0.12 constants may sit in front of the inputs of one class; there the returned jaxpr's
    ``constvars`` are those first variables.
    """
    if _JAXPR_CLASSES_ARE_ONE or isinstance(body, ClosedJaxpr):
        return body.jaxpr, list(body.consts)
    return body, []


def body_constvars(body: Any) -> list[Any]:
    """The variables that stand for ``body``'s constants."""
    jaxpr, consts = closed_parts(body)
    if _JAXPR_CLASSES_ARE_ONE:
        return list(jaxpr.all_invars[: len(consts)])
    return list(jaxpr.constvars)


def as_closed(body: Any) -> Any:
    """``body`` as a ``ClosedJaxpr``; an open jaxpr without constants is closed over none."""
    if _JAXPR_CLASSES_ARE_ONE or isinstance(body, ClosedJaxpr):
        return body
    return ClosedJaxpr(body, ())


def is_body(x: Any) -> bool:
    """Whether ``x`` is a jaxpr, open or closed."""
    return isinstance(x, Jaxpr | ClosedJaxpr)


def bodies_in_params(params: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every jaxpr in an equation's parameters as ``(where, jaxpr)``, in a stable order.

    ``where`` reads ``"jaxpr"``, or ``"branches[1]"`` inside a sequence.
    """
    for key, value in params.items():
        if isinstance(value, Jaxpr | ClosedJaxpr):
            yield key, value
        elif isinstance(value, tuple | list):
            for i, item in enumerate(value):
                if isinstance(item, Jaxpr | ClosedJaxpr):
                    yield f"{key}[{i}]", item


def replace_body(name: str, old: Any, new_closed: Any) -> Any:
    """``new_closed`` as the kind of jaxpr that ``old`` is; ``None`` where that is impossible.

    Args:
      name: the primitive's name: only some can have constants of their own in a body.
      old: the body as JAX gave it. Its function's name is taken over, since JAX calls a
        derivative rule after its body.
      new_closed: what is to take its place.
    """
    old_jaxpr = closed_parts(old)[0]
    # The branches of a cond all declare the effects of every one of them.
    declared = [e for e in old_jaxpr.effects if not is_of_an_operand(e)]
    new_closed = _with_debug_info(new_closed, old_jaxpr.debug_info, declared)
    jaxpr, consts = closed_parts(new_closed)
    if _JAXPR_CLASSES_ARE_ONE:
        return None if consts and not (old.consts or name in _MAY_HOLD_CONSTANTS) else new_closed
    if isinstance(old, ClosedJaxpr):
        return new_closed
    return None if consts else jaxpr


def is_of_an_operand(effect: Any) -> bool:
    """Whether an effect is a read or write of a reference, named by its variable or place."""
    return hasattr(effect, "input") or hasattr(effect, "input_index")


def _with_debug_info(closed: Any, info: Any, effects: Sequence[Any] = ()) -> Any:
    jaxpr = closed if _JAXPR_CLASSES_ARE_ONE else closed.jaxpr
    own = jaxpr.debug_info
    # Names that do not fit any more, since a pass has added an input or output, are dropped.
    if info.arg_names is not None and len(info.arg_names) != len(jaxpr.invars):
        info = info._replace(arg_names=own.arg_names)
    if info.result_paths is not None and len(info.result_paths) != len(jaxpr.outvars):
        info = info._replace(result_paths=own.result_paths)
    named = jaxpr.replace(debug_info=info, effects={*jaxpr.effects, *effects})
    return named if _JAXPR_CLASSES_ARE_ONE else ClosedJaxpr(named, closed.consts)


def with_constants(closed: Any, constants: Sequence[Any]) -> Any:
    """A closed jaxpr whose first ``len(constants)`` inputs have become its constants."""
    if not constants:
        return closed
    if _JAXPR_CLASSES_ARE_ONE:
        return closed.with_consts(list(constants))
    jaxpr = _pe.convert_invars_to_constvars(closed.jaxpr, len(constants))
    return ClosedJaxpr(jaxpr, list(constants))


def with_debug_names(closed: Any, arg_names: tuple[str, ...], result_paths: tuple[str, ...]) -> Any:
    """``closed`` with its inputs' and outputs' names set in JAX's debug information."""
    jaxpr = closed if _JAXPR_CLASSES_ARE_ONE else closed.jaxpr
    info = jaxpr.debug_info
    if len(arg_names) != len(info.arg_names or ()) or not result_paths:
        return closed
    info = info._replace(arg_names=arg_names, result_paths=result_paths)
    return _with_debug_info(closed, info)


def trace_closed(fn: Callable[..., Any], avals: Sequence[Any]) -> Any:
    """Trace ``fn`` over flat ``avals`` (raw avals, keys and refs included) to a closed jaxpr."""
    return jax.make_jaxpr(fn)(*avals)


def trace_flat(fn: Callable[..., Any], avals: Sequence[Any]) -> Any:
    """Trace a function of flat arrays that gives a list of arrays.

    Without what ``make_jaxpr`` does for people (names of arguments, pytrees, caches): a fifth of
    the time, for small pieces of graph.
    """
    names = DebugInfo("jaxpress", getattr(fn, "__name__", "template"), None, None)
    wrapped = wrap_init(fn, debug_info=names)
    jaxpr, _, consts = _pe.trace_to_jaxpr_dynamic(wrapped, list(avals))
    if _JAXPR_CLASSES_ARE_ONE:
        return jaxpr.with_consts(list(consts)) if consts else jaxpr
    return ClosedJaxpr(jaxpr, list(consts))


def bind(primitive: Any, inputs: Sequence[Any], params: dict[str, Any]) -> list[Any]:
    """Bind one equation's primitive and return its outputs as a list."""
    out = primitive.bind(*inputs, **primitive.get_bind_params(params))
    return list(out) if primitive.multiple_results else [out]


@contextlib.contextmanager
def provenance(source_info: Any, ctx: Any) -> Iterator[None]:
    """Bind under the source line, name stack and context that an equation was traced with."""
    stack = source_info_util.current_name_stack() + source_info.name_stack
    with (
        source_info_util.user_context(source_info.traceback, name_stack=stack),
        ctx.manager,
    ):
        yield


@contextlib.contextmanager
def body_context(name: str, params: dict[str, Any]) -> Iterator[None]:
    """The surroundings in which an equation's bodies are traced: a ``shard_map``'s axes."""
    if name != "shard_map":
        yield
        return
    mesh, axes = params["mesh"], params["newly_manual_axes"]
    with (
        _shard_map._extend_axis_env(mesh, axes),
        jax.sharding.use_abstract_mesh(_shard_map._as_manual_mesh(mesh, axes)),
        _config._check_vma(params["check_vma"]),
    ):
        yield


def source_frames(source_info: Any) -> Iterator[tuple[str, int, str]]:
    """The frames of an equation's traceback outside JAX, innermost first: file, line, function."""
    traceback = source_info.traceback
    if traceback is None:
        return
    for frame in _source_info_util.user_frames(traceback):
        yield frame.file_name, frame.start_line, frame.function_name


def register_framework_file(path: str) -> None:
    """Leave the files under ``path`` out of the lines that JAX calls the user's."""
    source_info_util.register_exclusion(path)


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many constants and how many carried values a ``scan`` equation takes."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry = params["ft_in"].unpack()[:2]
    return len(consts), len(carry)


def jit_is_plain(params: dict[str, Any]) -> bool:
    """Whether a ``jit`` equation asks nothing that is lost when its body is inlined.

    Shardings, layouts, donation and compiler options belong to the call; an equation that has
    any stays as it is.
    """
    unset = all(
        type(s).__name__ == "UnspecifiedValue"
        for s in (*params.get("in_shardings", ()), *params.get("out_shardings", ()))
    )
    layouts = (*(params.get("in_layouts") or ()), *(params.get("out_layouts") or ()))
    return (
        unset
        and all(layout is None for layout in layouts)
        and not any(params.get("donated_invars", ()))
        and not params.get("compiler_options_kvs", ())
    )


def custom_jvp_rule(params: dict[str, Any], n_inputs: int) -> tuple[Any, Any]:
    """The derivative rule of a ``custom_jvp_call`` as ``(closed jaxpr, zero outputs)``.

    The jaxpr takes primals and then tangents, none of them symbolically zero.
    """
    jaxpr, consts, zeros = params["jvp_jaxpr_fun"].call_wrapped(*([False] * n_inputs))
    if _JAXPR_CLASSES_ARE_ONE:
        return (jaxpr.with_consts(list(consts)) if consts else jaxpr), tuple(zeros)
    return ClosedJaxpr(jaxpr, consts), tuple(zeros)


def custom_jvp_identity(params: dict[str, Any]) -> Any:
    """What a ``custom_jvp_call``'s derivative rule is made of, hashable, or ``None``.

    Equations with the same body and identity have the same rule, which is then traced once. A rule
    that also reads arguments that are no arrays (``nondiff_argnums``) has none. The last entry
    holds each ``vmap``'s axes. Where JAX's closures look unlike this, ``None`` costs time only.
    """
    axes: tuple[Any, ...] = ()
    try:
        fun = params["jvp_jaxpr_fun"]
        while True:
            inner = _cells(_cells(fun.f)["fn"])
            if all(inner.get("used_outs", [False])):
                fun = inner["jvp_jaxpr_fun"]  # a derivative looked for results to leave out
                continue
            rule = inner["jvp"]
            if rule.f.__qualname__ != "lift_jvp.<locals>.jvp":
                break
            # An equation that was bound again, as when a graph is run: the rule is further in.
            if _cells(rule.f)["num_consts"]:
                return None
            axes = (*_mapped_axes(rule.transforms), *axes)
            fun = _cells(rule.f)["jvp_jaxpr_fun"]
        # The last step flattens, and knows the pytrees; those before it are vmaps with their axes.
        *maps, (_, details) = rule.transforms
        trees = tuple(x for x in details if isinstance(x, jax.tree_util.PyTreeDef))
        return rule.f, trees, (*_mapped_axes(maps), *axes)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _cells(f: Any) -> dict[str, Any]:
    """What a Python function closes over, by name."""
    return dict(zip(f.__code__.co_freevars, (c.cell_contents for c in f.__closure__), strict=True))


def _mapped_axes(steps: Sequence[Any]) -> tuple[Any, ...]:
    """The axes of each ``vmap``; ValueError for a step that is none."""
    axes = []
    for step, (_, _, in_dims) in steps:
        if step.__name__ != "batch_custom_jvp_subtrace":
            raise ValueError(step)
        axes.append(tuple(in_dims))
    return tuple(axes)


def with_weak_type(x: Any, aval: Any) -> Any:
    """``x`` with the weak type of ``aval``, where the two differ in nothing else."""
    weak, got = getattr(aval, "weak_type", False), jax.typeof(x)
    if getattr(got, "weak_type", False) == weak or got.dtype != aval.dtype:
        return x
    primitive = jax.lax.convert_element_type_p
    return primitive.bind(x, new_dtype=got.dtype, weak_type=weak, sharding=None)


def trace_primitive(primitive: Any, avals: Sequence[Any], params: dict[str, Any]) -> Any:
    """What a primitive computes, as a closed jaxpr of other primitives; ``None`` if unknown.

    A primitive defined outside JAX often has an implementation in JAX's own operations. One that
    has several kernels, told apart by the parameter ``kernel``, is taken by its ``"reference"``.
    From JAX 0.12, some of JAX's own are such compositions.
    """
    hidden = params.get("_prim")
    if hidden is not None and hasattr(hidden, "expand"):

        def run(*arrays: Any) -> Any:
            return hidden.expand(*jax.tree.unflatten(hidden.in_tree, arrays))

    else:
        implementation = primitive.impl
        while isinstance(implementation, functools.partial):
            implementation = implementation.func
        if getattr(implementation, "__module__", "jax").partition(".")[0] in ("jax", "jaxlib"):
            return None
        if "kernel" in params:
            params = {**params, "kernel": "reference"}

        def run(*arrays: Any) -> Any:
            return primitive.impl(*arrays, **params)

    try:
        return trace_closed(run, avals)
    except Exception:  # somebody else's code: whatever it raises, nothing is known
        return None


def register_checks(primitive: Any, trace: Callable[..., Any]) -> None:
    """Lets ``checkify`` look for NaN and the like inside a primitive.

    ``trace(avals, params)`` gives what it computes as a closed jaxpr, one of whose equations an
    error is then said to come from. With checks by users alone the primitive is bound as it is.
    """
    automatic = _checkify.all_checks - _checkify.user_checks

    def rule(*args: Any, **params: Any) -> Any:
        at = next(i for i, arg in enumerate(args) if isinstance(arg, _checkify.Error))
        (error, enabled), inputs = args[at : at + 2], args[at + 2 :]
        if not enabled & automatic:
            return error, primitive.bind(*inputs, **params)
        closed = trace([jax.typeof(x) for x in inputs], params)
        error, outs = _checkify.checkify_jaxpr(*args[:at], closed, enabled, error, *inputs)
        return error, outs if primitive.multiple_results else outs[0]

    _checkify.error_checks[primitive] = rule


def under_trace() -> bool:
    """Whether JAX is tracing right now (inside ``jit``, ``grad``, ``vmap``, ...)."""
    return _trace_context.trace not in _NO_TRACE


def in_shard_map(ctx: Any) -> bool:
    """Whether an equation was traced inside ``shard_map``, and may speak of its mesh's axes."""
    mesh = ctx.cur_abstract_mesh
    return not mesh.empty and bool(mesh.manual_axes)


def under_jit() -> bool:
    """Whether what is bound now goes into a jaxpr, through any other transformations."""
    return _core.unsafe_am_i_under_a_jit()


def outside_trace() -> contextlib.AbstractContextManager[Any]:
    """Run concretely, even while an outer function is traced. Inputs must be concrete."""
    return jax.ensure_compile_time_eval()


def without_constant_folding() -> contextlib.AbstractContextManager[Any]:
    """A trace inside gives the same equations wherever it is made, also within `outside_trace`."""
    return _config.eager_constant_folding(False)


def is_tracer(x: Any) -> bool:
    """Whether ``x`` is a JAX tracer."""
    return isinstance(x, Tracer)


def enable_x64(enabled: bool = True) -> contextlib.AbstractContextManager[Any]:
    """A context with 64-bit types switched on or off."""
    return jax.enable_x64(enabled)


def context_key() -> tuple[Any, ...]:
    """What the result of a trace depends on besides its function and avals."""
    config: Any = jax.config
    return (
        config.jax_enable_x64,
        config.jax_numpy_dtype_promotion,
        config.jax_default_matmul_precision,
        jax.sharding.get_abstract_mesh(),
        _config._check_vma.value,
    )
