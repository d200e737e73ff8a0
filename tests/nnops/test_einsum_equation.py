"""The equations of einsum_dense in canonical form, and what is none."""

import pytest

from jaxpress import nnops
from jaxpress.nnops.einsum_equation import canonical_equation, parse_equation


@pytest.mark.parametrize(
    "given, canonical",
    [
        ("...d,dhk->...hk", "...a,abc->...bc"),
        ("btd,dhk->bthk", "...a,abc->...bc"),
        ("btd, dhk -> bthk", "...a,abc->...bc"),
        ("abc,cd->abd", "...a,ab->...b"),
        ("...hk,hkd->...d", "...ab,abc->...c"),
        ("bthk,hkd->btd", "...ab,abc->...c"),
        ("btd,dhk->bhtk", "...ab,bcd->...cad"),
        ("ij,jk->ki", "...ab,bc->...ca"),
        ("btha,hak->bthk", "...ab,abc->...ac"),
        ("eba,eac->ebc", "...abc,acd->...abd"),
        ("...a,ba->...b", "...a,ba->...b"),
        ("bd,de->be", "...a,ab->...b"),
        ("a,ab->b", "...a,ab->...b"),
        ("ab,c->abc", "...,a->...a"),
    ],
)
def test_canonical_form(given, canonical):
    assert canonical_equation(given) == canonical
    assert canonical_equation(canonical) == canonical
    assert str(parse_equation(canonical)) == canonical


def test_an_ellipsis_that_does_not_lead_needs_the_number_of_axes():
    assert canonical_equation("b...d,de->b...e", 4) == "...a,ab->...b"
    assert canonical_equation("d...,de->e...", 3) == "...abc,ad->...dbc"
    with pytest.raises(nnops.OpError, match="does not lead"):
        canonical_equation("d...,de->e...")


def test_the_parts():
    parts = parse_equation("...abc,dcea->...ade")
    assert (parts.contracted, parts.batch, parts.features) == ("c", "a", "de")
    assert parts.bias == "ade" and parts.bias_axes == (-3, -2, -1)
    assert parse_equation("...ab,bc->...ca").bias_axes == (-2,)


@pytest.mark.parametrize(
    "equation, words",
    [
        ("ab->ab", "equation is"),
        ("ab,bc,cd->ad", "equation is"),
        ("ab,bc", "equation is"),
        ("a1,bc->ac", "equation is"),
        (3, "equation is"),
        ("...ab,bc->ac", "ellipsis on one side"),
        ("aab,bc->ac", "comes twice"),
        ("ab,bb->a", "comes twice"),
        ("ab,bc->cc", "comes twice"),
        ("abx,bc->ac", r"\['x'\]"),
        ("ab,bcx->ac", r"\['x'\]"),
        ("ab,bc->acx", r"\['x'\]"),
        ("ab,...bc->ac", "equation is"),
    ],
)
def test_what_is_no_equation_of_a_layer(equation, words):
    with pytest.raises(nnops.OpError, match=words) as caught:
        canonical_equation(equation)
    assert "to mend it: " in str(caught.value)
