"""The functions of nnops inside Flax Linen and Equinox: each is one named node of the graph."""

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxpress as jp
from jaxpress import nnops


class FlaxBlock(nn.Module):
    """A pre-norm block whose arithmetic is that of nnops, and whose parameters are Flax's."""

    features: int

    @nn.compact
    def __call__(self, x, key_padding_mask):
        shape, init = (self.features, self.features), nn.initializers.lecun_normal()
        scale = self.param("scale", nn.initializers.ones, (self.features,))
        w = {name: self.param(name, init, shape) for name in ("q", "k", "v", "out")}
        y = nnops.layer_norm(x, scale)
        q, k, v = (nnops.dense(y, w[name])[..., None, :] for name in ("q", "k", "v"))
        y = nnops.dot_product_attention(q, k, v, key_padding_mask=key_padding_mask)
        return nnops.dense(y[..., 0, :], w["out"], residual=x)


class EquinoxClassifier(eqx.Module):
    """A recurrent classifier; layers of nnops are pytrees, so they are Equinox's leaves too."""

    lstm: nnops.LSTM
    head: eqx.nn.Linear

    def __init__(self, key):
        for_lstm, for_head = jax.random.split(key)
        self.lstm = nnops.LSTM.init(for_lstm, 8, 16)
        self.head = eqx.nn.Linear(16, 3, key=for_head)

    def __call__(self, x, length):
        _, (h, _) = self.lstm(x, lengths=length)
        return nnops.log_softmax(self.head(h))


def main():
    key = jax.random.key(0)
    x, present = jax.random.normal(key, (2, 5, 8)), jnp.arange(5) < jnp.array([[5], [3]])
    block = FlaxBlock(8)
    params = block.init(key, x, present)
    counts = [jp.trace(block.apply)(params, x, present).count()]

    model = EquinoxClassifier(key)

    @eqx.filter_value_and_grad
    def loss(model):
        log_p = jax.vmap(model)(x, jnp.array([5, 3]))
        return -log_p[:, 0].mean()

    counts.append(jp.trace(loss)(model).count())
    for count in counts:
        print({op: n for op, n in count.items() if op in nnops.registry()})
    return counts


if __name__ == "__main__":
    main()
