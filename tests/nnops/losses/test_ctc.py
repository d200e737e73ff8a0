"""CTC against optax, torch, and a count of all alignments."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpress import nnops

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 7, 5)).astype(np.float32) * 2
LABELS = np.array([[1, 2, 3], [4, 4, 0], [2, 2, 2], [3, 0, 0]])
STEPS, LENGTHS = np.array([7, 5, 6, 7]), np.array([3, 2, 3, 1])


def _optax(logits):
    """optax marks padding with 1."""
    past = (jnp.arange(n) >= m[:, None] for n, m in ((7, STEPS), (3, LENGTHS)))
    steps, labels = (p.astype(logits.dtype) for p in past)
    return optax.ctc_loss(logits, steps, LABELS, labels, log_epsilon=-1e7)


def _ours(logits):
    return nnops.ctc_loss(logits, LABELS, logit_lengths=STEPS, label_lengths=LENGTHS)


def test_optax():
    want, back = jax.vjp(_optax, LOGITS)
    got, our_back = jax.vjp(_ours, LOGITS)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    ct = jnp.arange(1.0, 5.0)
    np.testing.assert_allclose(our_back(ct)[0], back(ct)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("blank", [0, 4])
def test_torch(blank):
    torch = pytest.importorskip("torch")
    labels = LABELS if blank == 0 else (LABELS - 1) % 4
    logits = torch.tensor(LOGITS, requires_grad=True)
    want = torch.nn.functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1),
        torch.tensor(labels),
        torch.tensor(STEPS),
        torch.tensor(LENGTHS),
        blank=blank,
        reduction="none",
    )
    want.sum().backward()
    got, back = jax.vjp(
        lambda x: nnops.ctc_loss(
            x, labels, logit_lengths=STEPS, label_lengths=LENGTHS, blank=blank - 5 * (blank == 4)
        ),
        LOGITS,
    )
    np.testing.assert_allclose(got, want.detach(), rtol=1e-5)
    np.testing.assert_allclose(back(jnp.ones(4))[0], logits.grad, rtol=1e-4, atol=1e-6)


def test_a_count_of_all_alignments():
    logits = RNG.normal(size=(4, 3))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    sums: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(3), repeat=4):
        read = tuple(c for c, _ in itertools.groupby(path) if c)
        sums[read] = sums.get(read, 0) + np.prod(p[range(4), path])
    with jax.enable_x64(True):
        for read, want in sums.items():
            got = nnops.ctc_loss(logits, np.array(read, int))
            np.testing.assert_allclose(np.exp(-got), want, rtol=1e-12)


def test_every_transformation(agree):
    labels = jnp.array([[1, 1], [2, 1]])
    agree(
        lambda x: nnops.ctc_loss(x, labels),
        lambda x: optax.ctc_loss(
            x, jnp.zeros((2, 4)), labels, jnp.zeros((2, 2)), log_epsilon=-1e30
        ),
        (2, 4, 3),
        rtol=1e-10,
        batch=False,  # test_every_op does
    )


def test_padding_is_not_read():
    labels = np.where(np.arange(3) < LENGTHS[:, None], LABELS, -7)
    logits = jnp.where((np.arange(7) < STEPS[:, None])[..., None], LOGITS, jnp.nan)
    total = lambda x, y: nnops.ctc_loss(  # noqa: E731
        x, y, logit_lengths=STEPS, label_lengths=LENGTHS, reduction="sum"
    )
    value, grad = jax.value_and_grad(total)(logits, labels)
    want, want_grad = jax.value_and_grad(total)(LOGITS, LABELS)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    inside = np.arange(7) < STEPS[:, None]
    np.testing.assert_allclose(grad[inside], want_grad[inside], rtol=1e-5, atol=1e-6)
    assert (np.asarray(want_grad)[~inside] == 0).all()


def test_impossible_and_wrong():
    f = lambda x, y, **kw: nnops.ctc_loss(x, jnp.array(y), **kw)  # noqa: E731
    x = jnp.zeros((2, 3))
    assert np.isposinf(f(x, [1, 1]))
    assert (jax.grad(f)(x, [1, 1]) == 0).all()
    assert np.isposinf(f(x, [1], logit_lengths=0))
    assert f(x, [1], logit_lengths=0, label_lengths=0) == 0
    masked = x.at[:, 1].set(-jnp.inf)
    assert np.isposinf(f(masked, [1])) and np.isfinite(f(masked, [2]))
    assert np.isfinite(jax.grad(f)(masked, [2])).all()
    assert np.isnan(f(x, [3])) and np.isnan(f(x, [-1]))
    for lengths in ({"logit_lengths": 3}, {"label_lengths": 2}, {"label_lengths": -1}):
        assert np.isnan(f(x, [1], **lengths))


def test_extreme_logits():
    x = jnp.array([[0.0, 1e4], [1e4, 0.0], [0.0, 1e4]])
    assert nnops.ctc_loss(x, jnp.array([1, 1])) == 0
    np.testing.assert_allclose(nnops.ctc_loss(x, jnp.array([1])), 1e4 - np.log(3), rtol=1e-6)


@pytest.mark.parametrize(
    "args, kwargs, message",
    [
        (((4, 3), (2, 2)), {}, "same leading axes"),
        (((2, 4, 3), (3, 2)), {}, "same leading axes"),
        (((3,), ()), {}, "same leading axes"),
        (((4, 3), (2,)), {"blank": 3}, "blank is 3"),
        (((2, 4, 3), (2, 2)), {"logit_lengths": jnp.ones(3, int)}, "logit_lengths has shape"),
        (((4, 3), (2,)), {"label_lengths": 1.5}, "label_lengths is float32"),
    ],
)
def test_errors(args, kwargs, message):
    logits, labels = jnp.ones(args[0]), jnp.ones(args[1], int)
    with pytest.raises(nnops.OpError, match=message):
        nnops.ctc_loss(logits, labels, **kwargs)


def test_labels_are_integers():
    with pytest.raises(nnops.OpTypeError, match="labels is float32"):
        nnops.ctc_loss(jnp.ones((4, 3)), jnp.ones(2))
