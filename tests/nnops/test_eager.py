"""Ops called outside of any trace."""

import jax
import jax.numpy as jnp
import pytest

from jaxpress import nnops
from jaxpress.nnops.eager import eagerly_jitted


def test_a_kind_of_call_is_worked_out_once():
    runs = []

    @eagerly_jitted
    def twice(x, *, times=2):
        runs.append(times)
        return x * times

    x = jnp.ones(3)
    for times in (2, 2, 2.0, 2.0):
        assert twice(x, times=times).tolist() == [2, 2, 2]
    assert list(map(type, runs)) == [int, float]
    twice(x, times=jnp.ones(3))
    assert len(runs) == 3


def test_a_graph_holds_the_op_and_no_jit_around_it():
    x, w = jnp.ones((2, 3)), jnp.ones((3, 4))
    nnops.dense(x, w)
    for args in ((), (1.0,)):
        jaxpr = jax.make_jaxpr(lambda *_: nnops.dense(x, w))(*args)
        assert [e.primitive.name for e in jaxpr.eqns] == ["dense"]


def test_errors_are_the_same():
    with pytest.raises(nnops.OpError, match=r"dense.*\(3,\)"):
        nnops.dense(jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones(3))
