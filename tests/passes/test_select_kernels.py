"""Which kernel each op gets: the best that fits, and never another result."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxpress as jp
from helpers import CHW, array, assert_close
from jaxpress import nnops
from jaxpress.capture import PassError, trace
from jaxpress.passes import default
from jaxpress.passes.select_kernels import KERNEL_PREFERENCES, preferences_of, select_kernels

X = array(2, 6, 6, 4)
DEPTHWISE, POINTWISE, FULL = array(3, 3, 1, 4), array(1, 1, 4, 6), array(3, 3, 4, 6)

CASES = {
    "depthwise": (lambda x: nnops.conv(x, DEPTHWISE, groups=4), "depthwise_shifted"),
    "one channel": (lambda x: nnops.conv(x[..., :1], array(3, 3, 1, 4)), "reference"),
    "depthwise, strided": (
        lambda x: nnops.conv(x, DEPTHWISE, groups=4, strides=2, dilation=1), "depthwise_shifted",
    ),
    "pointwise": (lambda x: nnops.conv(x, POINTWISE, activation="relu"), "pointwise_dot"),
    "pointwise, padded": (lambda x: nnops.conv(x, POINTWISE, padding=1), "reference"),
    "full": (lambda x: nnops.conv(x, FULL), "reference"),
    "groups": (lambda x: nnops.conv(x, array(3, 3, 2, 6), groups=2), "grouped_split"),
    "larger than the image": (lambda x: nnops.conv(x, array(9, 9, 4, 60)), "patches_dot"),
    "larger, but quick": (lambda x: nnops.conv(x, array(9, 9, 4, 6)), "reference"),
    "few positions, many weights": (
        lambda x: nnops.conv(x[:1].repeat(64, -1), array(5, 5, 256, 84) / 80, strides=2),
        "patches_dot",
    ),
    "many positions": (
        lambda x: nnops.conv(x.repeat(64, -1), array(5, 5, 256, 84)), "reference",
    ),
    "tiles": (lambda x: nnops.conv(x, FULL, strides=3), "tiles_dot"),
    "tiles, padded": (lambda x: nnops.conv(x, FULL, strides=3, padding=1), "reference"),
    "one tile": (lambda x: nnops.conv(x[:1, :3, :3], FULL, strides=3), "reference"),
    "tiles upwards": (lambda x: nnops.conv(x, FULL, strides=3, transposed=True), "tiles_dot"),
    "planes": (lambda x: nnops.conv(x[None], array(3, 3, 3, 4, 2)), "planes"),
    "transposed": (lambda x: nnops.conv(x, FULL, strides=2, transposed=True), "reference"),
    "average": (lambda x: nnops.avg_pool(x, 3, 1, padding="SAME"), "shifted"),
    "maximum": (lambda x: nnops.max_pool(x, 3, 2), "shifted"),
    "large window": (lambda x: nnops.max_pool(x, 5, 1), "separable"),
    "whole image": (lambda x: nnops.avg_pool(x, 6), "reference"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_on_the_cpu(name) -> None:
    fn, kernel = CASES[name]
    record: list = []
    graph = trace(fn)(X)
    new = select_kernels(graph, record, platform="cpu").validate()
    assert [n.params["kernel"] for n in new.nodes if "kernel" in n.params] == [kernel]
    assert [r.rule for r in record] == ([kernel] if kernel != "reference" else [])
    assert_close(jax.jit(new)(X), jax.jit(graph)(X))
    want, got = (jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x))))(X) for f in (graph, new))
    assert_close(got, want)
    assert select_kernels(new, platform="cpu") is new


def test_the_kernel_is_not_for_every_platform() -> None:
    graph = trace(CASES["depthwise"][0])(X)
    for platform in ("gpu", "tpu"):
        assert select_kernels(graph, platform=platform) is graph
    assert select_kernels(graph, kernels="reference") is graph


def test_kernels_that_a_person_names() -> None:
    graph = trace(CASES["pointwise"][0])(X)
    for kernels in ({"conv": "pointwise_dot"}, {"conv": ["depthwise_shifted", "pointwise_dot"]}):
        (node,) = select_kernels(graph, platform="gpu", kernels=kernels).nodes
        assert node.params["kernel"] == "pointwise_dot"
    (node,) = select_kernels(graph, kernels={"conv": "depthwise_shifted"}).nodes
    assert node.params["kernel"] == "reference"  # which does not fit
    assert select_kernels(graph, kernels={}) is graph


@pytest.mark.parametrize(
    ("kernels", "what"),
    [
        ({"convolution": "pointwise_dot"}, "convolution"),
        ({"conv": "winogrand"}, "winogrand"),
        ("fastest", "fastest"),
        (3, "3"),
    ],
)
def test_what_is_unknown(kernels, what) -> None:
    with pytest.raises(PassError, match=what):
        preferences_of(kernels, "cpu")
    with pytest.raises(PassError, match=what):
        jp.optimize(lambda x: x, kernels=kernels)


def test_every_preference_is_a_kernel() -> None:
    for preferences in KERNEL_PREFERENCES.values():
        for op, names in preferences.items():
            assert set(names) <= set(nnops.registry()[op].kernels)


def test_in_bodies_under_vmap_and_for_other_layouts() -> None:
    def fn(x):
        step = lambda h, _: (nnops.conv(h, DEPTHWISE, groups=4), None)  # noqa: E731
        return lax.scan(step, x, None, 2)[0]

    new = select_kernels(trace(fn)(X), platform="cpu").validate()
    assert [n.params["kernel"] for n in new.find("conv")] == ["depthwise_shifted"]
    assert_close(jax.jit(new)(X), fn(X))

    graph = trace(jax.vmap(CASES["pointwise"][0]))(X[None])
    new = select_kernels(graph, platform="cpu")
    assert [n.params["kernel"] for n in new.find("conv")] == ["pointwise_dot"]
    assert_close(new(X[None]), graph(X[None]))

    w = jnp.transpose(DEPTHWISE, (3, 2, 0, 1))
    graph = trace(lambda x: nnops.conv(x, w, groups=4, dimension_numbers=CHW))(array(2, 4, 6, 6))
    new = select_kernels(graph, platform="cpu")
    assert new.nodes[0].params["kernel"] == "depthwise_shifted"
    assert_close(new(array(2, 4, 6, 6)), graph(array(2, 4, 6, 6)))


def test_arrays_of_no_size_and_whole_numbers() -> None:
    graph = trace(CASES["depthwise"][0])(X[:0])
    assert select_kernels(graph, platform="cpu")(X[:0]).shape == (0, 6, 6, 4)
    n = jnp.arange(2 * 36 * 4).reshape(2, 6, 6, 4)
    graph = trace(lambda n: nnops.conv(n, jnp.ones((3, 3, 1, 4), int), groups=4))(n)
    assert select_kernels(graph, platform="cpu") is graph


def test_the_pass_leaves_other_nodes_alone() -> None:
    def fn(x):
        return jnp.sin(nnops.conv(x, POINTWISE)), x

    new = default["select_kernels"](trace(fn)(X)).validate()
    assert new.count() == trace(fn)(X).count()
    np.testing.assert_allclose(new(X)[0], fn(X)[0], rtol=1e-4, atol=1e-5)
