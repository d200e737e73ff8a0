import pytest

from jaxpress import nnops
from jaxpress.viz.style import FAMILIES, INK, MUTED, family_of


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2 (https://www.w3.org/TR/WCAG21/#dfn-relative-luminance)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    lighter, darker = sorted((luminance(a), luminance(b)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("name", FAMILIES)
def test_text_reads_on_every_fill(name: str) -> None:
    assert contrast(INK, FAMILIES[name].fill) >= 7.0  # WCAG AAA
    assert contrast(MUTED, FAMILIES[name].fill) >= 4.5  # WCAG AA


# The named ops that only place data or say where it is.
MOVES = {"kv_cache_update", "one_hot", "reverse_sequence", "sequence_mask", "shift"}


@pytest.mark.parametrize("op", sorted(nnops.registry()))
def test_every_named_op_has_a_family(op: str) -> None:
    assert family_of(op) not in ("other", "control")
    assert (family_of(op) == "move") == (op in MOVES)


def test_families_of_jax_own_ops() -> None:
    assert family_of("conv_general_dilated") == "matmul"
    assert family_of("reduce_window_max") == "pool"
    assert family_of("reduce_something_new") == "reduce"
    assert family_of("scan") == "control"
    assert family_of("reshape") == "move"
    assert family_of("random_bits") == "random"
    assert family_of("focal_loss") == "loss"
    assert family_of("nothing_known") == "other"


def test_every_family_that_an_op_can_have_is_drawn() -> None:
    from jaxpress.viz.style import _FAMILY_OF

    assert set(_FAMILY_OF.values()) <= set(FAMILIES)
