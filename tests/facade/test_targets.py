"""Targets: what they may be, every way in which they can be wrong, and arrays for their shapes."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import TargetError
from jaxpress.targets import Target, load_target

SDS = jax.ShapeDtypeStruct


@pytest.mark.parametrize("place", ["targets.py", "./targets.py", "targets"])
def test_a_file_or_a_module_is_found(folder: Path, place: str) -> None:
    target = load_target(f"{place}:scaled")
    assert target.name == f"{place}:scaled"
    assert target.args[0].shape == (2, 3)
    assert target.fn(*target.args)["y"].shape == (2, 4)


def test_an_absolute_path_from_elsewhere(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert load_target(f"{folder}/targets.py:scaled").kwargs == {}


def test_a_dotted_attribute_and_keywords(folder: Path) -> None:
    assert load_target("targets.py:Nested.sine").fn is jnp.sin
    assert set(load_target("targets.py:shapes").kwargs) == {"gain"}


@pytest.mark.parametrize("text", ["targets.py:scaled", "targets.py:raises", "broken.py:f"])
def test_the_path_is_as_before(folder: Path, text: str) -> None:
    before = list(sys.path)
    try:
        load_target(text)
    except TargetError:
        assert text != "targets.py:scaled"
    assert sys.path == before


def test_a_file_does_not_stand_in_for_a_library(folder: Path) -> None:
    import json

    (folder / "json.py").write_text("def f():\n    return abs, (1.0,)\n")
    assert load_target("json.py:f").fn is abs
    assert sys.modules["json"] is json


BAD = {
    "targets": 'names no function; write it as "package.module:function"',
    "targets.py": "names no function",
    "targets.py:": "names no function",
    ":scaled": "names no module or file",
    "targets.py:a b": '"a b" is no function\'s name',
    "a-b:f": '"a-b" is no module\'s name',
    "nowhere.py:f": "there is no file nowhere.py in",
    "notes.txt/x:f": "there is no file",
    "./notes.txt:f": "no Python file",
    "nowhere:f": 'there is no module "nowhere"',
    "jax.nowhere:f": 'there is no module "jax.nowhere"',
    "nowhere.deep:f": 'there is no module "nowhere"',
    "broken.py:f": "importing it failed: SyntaxError",
    "broken:f": "importing it failed: SyntaxError",
    "imports_nothing.py:f": "importing it failed: ModuleNotFoundError: No module named 'there_is_",
    "imports_nothing:f": "importing it failed: ModuleNotFoundError: No module named 'there_is_",
    "targets.py:scald": 'has no "scald"; its functions are scaled, shapes, needs_argument',
    "targets.py:Nested.cosine": 'has no "cosine"',
    "targets.py:not_callable": "not_callable is a value of type int, not a function",
    "targets.py:needs_argument": "is called without arguments, and missing a required argument",
    "targets.py:raises": "calling it failed: RuntimeError: no weights here (",
    "targets.py:leaves": "calling it failed: SystemExit: 3",
    "targets.py:gives_none": "but it returned None",
    "targets.py:gives_function": "but it returned a value of type",
    "targets.py:gives_four": "but it returned a tuple of 4",
    "targets.py:gives_no_function": "its fn is a value of type int, which cannot be called",
    "targets.py:gives_bare_array": "not a tuple: write (fn, (x,))",
    "targets.py:gives_bad_kwargs": "its kwargs is a value of type dict, not a dict with names",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_wrong_is_said(folder: Path, text: str) -> None:
    with pytest.raises(TargetError) as caught:
        load_target(text)
    message = str(caught.value)
    assert message.startswith(f'target "{text}"')
    assert BAD[text] in message
    assert "\n" not in message


def test_a_failure_names_the_users_line(folder: Path) -> None:
    line = (
        (folder / "targets.py")
        .read_text()
        .splitlines()
        .index('    raise RuntimeError("no weights\\nhere")')
    )
    with pytest.raises(TargetError, match=rf"targets\.py:{line + 1}\)"):
        load_target("targets.py:raises")


def test_a_file_without_its_suffix_is_hinted_at(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "deep.py").write_text("x = 1\n")
    with pytest.raises(TargetError, match=r"did you mean sub/deep\.py\?"):
        load_target("sub/deep:f")


def test_arrays_take_the_place_of_shapes() -> None:
    nested = {"w": SDS((30, 40), jnp.float32), "b": SDS((4,), jnp.bfloat16), "kept": np.ones(2)}
    key = jax.eval_shape(lambda: jax.random.split(jax.random.key(0, impl="rbg"), 3))
    args = (nested, SDS((2, 30), jnp.float32), SDS((5,), jnp.int32), SDS((), jnp.bool_), key, 2.0)
    target = Target("t", jnp.sin, args, {"z": SDS((2,), jnp.complex64)})
    assert target.shapes_only() == 7
    filled = target.with_arrays()
    assert filled.shapes_only() == 0
    for want, got in zip(jax.tree.leaves(args[0]), jax.tree.leaves(filled.args[0]), strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
    weights, x, ids, flag, keys, number = filled.args
    assert weights["kept"] is nested["kept"]
    assert number == 2.0
    assert float(jnp.min(weights["b"])) >= 0.5  # it may be a variance
    assert float(jnp.std(weights["w"])) == pytest.approx(30**-0.5, rel=0.1)
    assert float(jnp.std(x)) == pytest.approx(1.0, rel=0.3)
    assert not ids.any() and not flag
    assert keys.dtype == key.dtype and keys.shape == (3,)
    assert filled.kwargs["z"].dtype == jnp.complex64
    again = target.with_arrays()
    np.testing.assert_array_equal(again.args[1], x)


def test_arrays_of_one_shape_differ() -> None:
    shape = SDS((8,), jnp.float32)
    a, b = Target("t", jnp.add, (shape, shape)).with_arrays().args
    assert not np.array_equal(a, b)


def test_a_dimension_without_a_number_is_refused() -> None:
    (n,) = jax.export.symbolic_shape("n")
    target = Target("t", jnp.sin, (SDS((n, 3), jnp.float32),))
    with pytest.raises(TargetError, match="a number for every dimension"):
        target.with_arrays()
