"""What ``jaxpress demo`` works on: Keras' MobileNetV2, a photograph, and pictures of the graph."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from jaxpress.capture.errors import JaxpressError
from jaxpress.passes.record import Report

__all__ = ["DemoModel", "draw", "import_keras", "mobilenet", "photographs"]

_MODULES = {"keras": "keras", "scikit-learn": "sklearn", "pillow": "PIL"}
_INSTALL = 'pip install "jaxpress[demo]"'


@dataclass(frozen=True)
class DemoModel:
    """A network with an input.

    Attributes:
      fn: takes ``x``; closes over the weights.
      x: a photograph, float32 of shape (1, size, size, 3), between -1 and 1.
      parameters: how many numbers the weights hold.
    """

    fn: Callable[[Any], Any]
    x: Any
    parameters: int


def check_extras() -> None:
    """Look for what the demo needs, before anything takes time.

    Raises:
      JaxpressError: something is not installed.
    """
    missing = [name for name, module in _MODULES.items() if not importlib.util.find_spec(module)]
    if missing:
        raise JaxpressError(f"the demo needs {', '.join(missing)}; install with: {_INSTALL}")


def import_keras() -> Any:
    """Keras on its JAX backend.

    Raises:
      JaxpressError: this process has imported it on another one, or it does not import.
    """
    before = os.environ.get("KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = "jax"  # Keras reads it once, when it is first imported
    try:
        import keras
    except ImportError as error:
        raise JaxpressError(f"Keras does not import: {error}; {_INSTALL}") from error
    finally:
        if before is None:
            del os.environ["KERAS_BACKEND"]
        else:
            os.environ["KERAS_BACKEND"] = before
    backend = keras.backend.backend()
    if backend != "jax":
        raise JaxpressError(
            f"Keras runs on {backend} in this process, and jaxpress can only see JAX; set "
            "KERAS_BACKEND=jax before anything imports Keras"
        )
    return keras


def photographs(size: int) -> np.ndarray:
    """Cuttings of scikit-learn's two sample photographs, as MobileNetV2 expects them.

    Returns:
      float32 of shape (8, size, size, 3), between -1 and 1. The first is the middle square of a
      Chinese temple; the others are a flower, corners, and mirrored ones.
    """
    from PIL import Image
    from sklearn.datasets import load_sample_image

    pictures = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    images = []
    for part in (1.0, 0.5):  # of the height
        for picture in pictures:
            edge = int(min(picture.size) * part)
            left = (picture.width - edge) // 2 if part == 1 else 0
            square = picture.crop((left, 0, left + edge, edge)).resize((size, size))
            pixels = np.asarray(square, np.float32) / 127.5 - 1
            images += [pixels, pixels[:, ::-1]]
    return np.stack(images)


def mobilenet(size: int = 224, seed: int = 0) -> DemoModel:
    """MobileNetV2 with random weights, and a photograph.

    Trained weights would have to be downloaded. Random ones cost the same to run; batch norm has
    the statistics that the photographs really give, so that activations keep their scale, and
    random scales and shifts, so that a wrong fold would show.

    Args:
      size: width and height of the image, at least 32.
      seed: of the weights.

    Raises:
      JaxpressError: something is not installed, or Keras runs on another backend.
    """
    check_extras()
    keras = import_keras()
    import jax

    rng = np.random.default_rng(seed)

    class Normal(keras.initializers.Initializer):
        """He et al. 2015, drawn by NumPy: JAX would compile a sampler for each shape."""

        def __call__(self, shape: Any, dtype: Any = None) -> Any:
            depthwise = len(shape) == 4 and shape[-1] == 1
            fan_in = prod(shape[:2] if depthwise else shape[:-1])
            return jax.numpy.asarray(rng.standard_normal(shape) * np.sqrt(2 / fan_in), dtype)

    with keras.utils.custom_object_scope({"glorot_uniform": Normal}):
        network = keras.applications.MobileNetV2(weights=None, input_shape=(size, size, 3))
    images = photographs(size)
    _calibrate(keras, network, images, rng)
    return DemoModel(
        fn=_named(lambda x: network(x, training=False), "MobileNetV2"),
        x=jax.numpy.asarray(images[:1]),
        parameters=network.count_params(),
    )


def _named(fn: Callable[..., Any], name: str) -> Callable[..., Any]:
    fn.__name__ = name
    return fn


def _calibrate(keras: Any, network: Any, images: np.ndarray, rng: np.random.Generator) -> None:
    """Give batch norms the statistics of ``images``, each seeing what the ones before made."""
    import jax

    norms = [x for x in network.layers if isinstance(x, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.gamma.assign(rng.uniform(0.7, 1.3, norm.gamma.shape))
        norm.beta.assign(rng.normal(0.0, 0.2, norm.beta.shape))
    head = network.layers[-1]
    body = keras.Model(network.input, head.input)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # after one training step the statistics are the batch's own
    trainable, others = body.trainable_variables, body.non_trainable_variables
    step = jax.jit(lambda a, b, x: body.stateless_call(a, b, x, training=True))
    features, statistics = step([v.value for v in trainable], [v.value for v in others], images)
    for variable, value in zip(others, statistics, strict=True):
        variable.assign(value)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    # Logits that vary by about 2: a saturated softmax would agree with any other.
    kernel = np.asarray(head.kernel.value)
    head.kernel.assign(kernel * (2 / (np.asarray(features) @ kernel).std()))


def draw(report: Report, folder: Path) -> tuple[list[Path], str]:
    """Write the graphs before and after, and a page with both.

    Args:
      report: what the passes did.
      folder: where to; it must be there.

    Returns:
      The files, and what to do for pictures where nothing can lay them out (else empty): then
      the files are DOT text.
    """
    from jaxpress.viz import RendererNotFound, render

    wanted: list[tuple[str, dict[str, Any]]] = [
        ("before", {"which": "before"}),
        ("after", {"which": "after"}),
    ]
    try:
        files = [render(report, folder / f"{name}.svg", **options) for name, options in wanted]
        files.append(render(report, folder / "report.html"))
        return [Path(file) for file in files], ""
    except RendererNotFound as error:
        files = [render(report, folder / f"{name}.dot", **options) for name, options in wanted]
        return [Path(file) for file in files], str(error)
