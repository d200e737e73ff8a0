"""From a function's pytrees to a graph's flat inputs, and back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import jax

from jaxpress.capture.errors import ArgumentError

__all__ = ["Signature"]


@dataclass(frozen=True)
class Signature:
    """How a traced function is called.

    Attributes:
      function: the function's name, for messages.
      in_tree: the structure of ``(args, kwargs)`` without the static arguments.
      out_tree: the structure of the result.
      arg_names: one readable name per flat input, such as ``"params['w']"``.
      result_paths: one readable name per flat output, such as ``"result['logits']"``.
      static_args: static positional arguments by index.
      static_kwargs: static keyword arguments by name.
    """

    function: str
    in_tree: Any
    out_tree: Any
    arg_names: tuple[str, ...]
    result_paths: tuple[str, ...]
    static_args: dict[int, Any] = field(default_factory=dict)
    static_kwargs: dict[str, Any] = field(default_factory=dict)

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The flat inputs for a call.

        Raises:
          ArgumentError: the arguments' structure, or a static argument, is another one.
        """
        for i, value in self.static_args.items():
            if i < len(args) and args[i] != value:
                raise ArgumentError(
                    f"{self.function} was traced with static argument {i} = {value!r}, and called "
                    f"with {args[i]!r}; trace it again for another static value"
                )
        for key, value in self.static_kwargs.items():
            if key in kwargs and kwargs[key] != value:
                raise ArgumentError(
                    f"{self.function} was traced with static {key}={value!r}, and called with "
                    f"{kwargs[key]!r}; trace it again for another static value"
                )
        args = tuple(a for i, a in enumerate(args) if i not in self.static_args)
        kwargs = {k: v for k, v in kwargs.items() if k not in self.static_kwargs}
        flat, tree = jax.tree_util.tree_flatten((args, kwargs))
        if tree != self.in_tree:
            raise ArgumentError(
                f"{self.function} was traced with arguments of structure\n  {self.in_tree}\nand "
                f"called with\n  {tree}\npass the same pytrees, or trace it again with these"
            )
        return flat

    def with_extra_outputs(self, names: tuple[str, ...]) -> Signature:
        """The signature of a function that returns ``(result, {name: array})``."""
        extra = jax.tree_util.tree_structure(dict.fromkeys(names, 0))
        out_tree = jax.tree_util.treedef_tuple((self.out_tree, extra))
        return replace(
            self,
            out_tree=out_tree,
            result_paths=(*self.result_paths, *(f"extra[{name!r}]" for name in sorted(names))),
        )

    def unflatten(self, outputs: list[Any]) -> Any:
        """The function's result from the flat outputs."""
        return jax.tree_util.tree_unflatten(self.out_tree, outputs)
