import jax
import jax.numpy as jnp
import pytest

from jaxpress.capture import trace
from jaxpress.viz.scopes import family_prefixes, split_scope, stem


@pytest.mark.parametrize(
    ("scope", "parts"),
    [
        ("", ()),
        ("Model/Dense_0", ("Model", "Dense_0")),
        ("jvp(Model)/Dense_0", ("Model (forward)", "Dense_0")),
        ("transpose(jvp(Model/Block))/Dense_0", ("Model (backward)", "Block", "Dense_0")),
        ("transpose(jvp())", ()),
        ("vmap(jvp(a/b))/c", ("a (forward)", "b", "c")),
        ("vmap(a)", ("a",)),
        ("my(thing)/x", ("my(thing)", "x")),
        ("a)/b", ("a)", "b")),
        ("a//b", ("a", "b")),
    ],
)
def test_split_scope(scope: str, parts: tuple[str, ...]) -> None:
    assert split_scope(scope) == parts


def test_the_name_stacks_that_jax_writes_are_understood() -> None:
    @jax.grad
    def loss(x):
        with jax.named_scope("net"), jax.named_scope("layer"):
            return jnp.sin(x).sum()

    found = {split_scope(node.scope) for node in trace(loss)(jnp.ones(3)).nodes}
    assert ("net (forward)", "layer") in found
    assert ("net (backward)", "layer") in found


def test_stem() -> None:
    assert stem("block_12_conv3") == stem("block_1_conv77") == "block_#_conv#"
    assert stem("block_1") != stem("blocks_1")


def test_family_prefixes_of_a_flat_model() -> None:
    names = ["stem", "block_1_a", "block_1_b", "block_2_a", "block_2_b", "head_1", "top"]
    assert family_prefixes(names) == ["", *["block_1"] * 2, *["block_2"] * 2, "", ""]


def test_the_longest_run_is_taken_and_what_all_share_says_nothing() -> None:
    names = ["conv2_block1_1", "conv2_block1_2", "conv2_block2_1", "conv2_block2_2"]
    assert family_prefixes([*names, "conv3_block1_1"])[:4] == ["conv2"] * 4
    inside = family_prefixes(names)
    assert inside == ["conv2_block1"] * 2 + ["conv2_block2"] * 2


def test_one_name_alone_makes_no_block() -> None:
    assert family_prefixes(["layer_1_a", "layer_1_a", "x"]) == ["", "", ""]
    assert family_prefixes([]) == []
