import jax
from flax import linen as nn

import jaxpress as jp


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(32, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        return nn.Dense(10)(x.mean(axis=(1, 2)))


model, x = CNN(), jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
params = model.init(jax.random.key(1), x)

graph = jp.trace(model.apply)(params, x)  # any JAX function becomes a graph
print(graph.count())
fast = jp.optimize(model.apply, weight_argnums=0)  # the same function, rewritten
print(fast.report(params, x))  # what each pass did
print(fast.graph(params, x).count())
print(jp.verify(model.apply, fast)(params, x))  # against a run in float64
jp.render(fast.report(params, x), "flax_cnn.svg")  # .html shows before and after
