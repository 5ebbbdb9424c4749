"""Explanations by gradients: Grad-CAM and saliency."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import functional, shapes
from cnn.explain.asked import Asked
from cnn.explain.result import Explanation, scaled
from cnn.graph import Value
from cnn.layers.cutting import Cut
from cnn.layers.in_numpy import Opaque
from cnn.layers.module import Module
from cnn.ops import conv, pool

if TYPE_CHECKING:
    from typing import Any

    from cnn.explain.asked import Target
    from cnn.graph import Graph
    from cnn.prediction import Predictor


class NoFeatureMap(ValueError):
    """A network without a convolution whose output is larger than a pixel: Grad-CAM has nothing to look at."""


def grad_cam(model: Module | Predictor, images: Any, target: Target = None,
             layer: str | Module | None = None) -> Explanation:
    """Where a network sees a class, by the feature maps of a layer: Grad-CAM.

        >>> train, test = cnn.data.load("mnist-sample")
        >>> found = cnn.explain.grad_cam(cnn.models.lenet5(seed=0), test.normalise(test.images[:3]), target=7)
        >>> found.maps.shape, found.raw.shape, found.layer
        ((3, 28, 28), (3, 10, 10), '4')

    For the score y of the class and the maps A (channels, h, w) of the layer, of each image:

        a[k] = mean over i, j of dy/dA[k, i, j];    raw[i, j] = max(0, sum over k of a[k] A[k, i, j])

    `maps` are these, enlarged to the image by bilinear interpolation and divided by their maximum (Selvaraju et al.
    2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", equations 1 and 2).

    model: a Module with scores (N, K), or a Predictor. images: (N, C, H, W) as the Module takes them, N may be 0; for a
    Predictor what `predict` takes, always explained without `tta`. target: the class to explain, by number, for a
    Predictor also by name; a list or array of N; default: the one with the largest score. layer: the layer whose output
    is A, or its name, as `model.named_parameters()` has them; default: the last map before pooling or flattening of the
    size of the last convolution's output, a single pixel left out. If a layer is called several times, its last output
    counts.

    Raises NoFeatureMap where no layer is given and there is no such convolution, ValueError or TypeError for what does
    not fit, FloatingPointError where scores are not finite, RuntimeError while another thread trains the model.
    """
    asked = Asked("grad_cam", model, images, target)
    chosen: dict[str, Any] = {}

    def choose(graph: Graph) -> Value:
        chosen["layer"], value = _named(graph, layer) if layer is not None else _last_map(graph)
        return value
    found = Cut("grad_cam", asked.model, asked.x.shape[1:], asked.x.dtype, choose)
    asked.check_scores(found.outputs, found.single)
    raw = np.empty((len(asked.x), *found.image[1:]), asked.x.dtype)

    def use(where: np.ndarray, maps: np.ndarray, gradient: np.ndarray) -> None:
        raw[where] = np.maximum((gradient.mean(axis=(2, 3), keepdims=True) * maps).sum(axis=1), 0)
    scores, goal = _explained(asked, found, asked.x, use)
    maps = functional.interpolate(raw[:, None], asked.x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return Explanation(scaled(maps), raw, goal, scores, asked.images, asked.names(goal), chosen["layer"])


def saliency(model: Module | Predictor, images: Any, target: Target = None, samples: int = 0, noise: float = 0.15,
             seed: int = 0) -> Explanation:
    """How much each pixel changes the score of a class: the gradient by the image, or its mean under noise, SmoothGrad.

        raw = mean over the samples of dy/dx at x + noise (max x - min x) n,    n from a normal distribution

    `maps` are the largest |raw| among the channels, divided by the maximum (Simonyan et al. 2014, "Deep Inside
    Convolutional Networks"; Smilkov et al. 2017, "SmoothGrad: removing noise by adding noise").

    model, images, target: see `grad_cam`. samples: how many noisy copies of each image to average over; 0: the gradient
    of the image as it is. noise: standard deviation, as a share of the range of the image's numbers. seed: of the
    noise, which is the same for every image. Raises what `grad_cam` raises, but for NoFeatureMap.
    """
    asked = Asked("saliency", model, images, target)
    samples = shapes.integer("saliency", "samples", samples, 0, 10_000)
    noise = shapes.number("saliency", "noise", noise, 0)
    rng = np.random.default_rng(shapes.integer("saliency", "seed", seed, 0, 2**64 - 1))
    found = Cut("saliency", asked.model, asked.x.shape[1:], asked.x.dtype, lambda graph: graph.inputs[0])
    asked.check_scores(found.outputs, found.single)
    raw = np.zeros_like(asked.x)

    def use(where: np.ndarray, x: np.ndarray, gradient: np.ndarray) -> None:
        raw[where] += gradient
    scores, goal = _explained(asked, found, asked.x, use)
    if samples:
        raw[...] = 0
        spread = noise * np.ptp(asked.x, axis=(1, 2, 3), keepdims=True)
        for _ in range(samples):
            drawn = rng.standard_normal(asked.x.shape[1:]).astype(asked.x.dtype)
            _explained(asked, found, asked.x + (spread * drawn).astype(asked.x.dtype), use, goal)
        raw /= samples
    return Explanation(scaled(np.abs(raw).max(axis=1)), raw, goal, scores, asked.images, asked.names(goal))


def _explained(asked: Asked, found: Cut, x: np.ndarray, use: Any, goal: np.ndarray | None = None
               ) -> tuple[np.ndarray, np.ndarray]:
    """Scores and targets of all images; calls `use(numbers, elements, gradient)` for a few at a time."""
    scores = np.empty((len(x), *found.outputs[0]), x.dtype)
    targets = np.empty(len(x), np.int64) if goal is None else goal

    def weigh(where: np.ndarray, y: np.ndarray) -> np.ndarray:
        scores[where] = y
        if goal is None:
            targets[where] = asked.target(y, where)
        return np.eye(y.shape[1], dtype=y.dtype)[targets[where]]
    for where, elements, gradient in found.gradients(x, weigh):
        use(where, elements, gradient)
    return scores, targets


# ------------------------------------------------------------------------------------------ layers


def _last_map(graph: Graph) -> tuple[str, Value]:
    """The feature map that Grad-CAM looks at by default, and the name of its layer."""
    nodes = [node for node in graph.nodes if len(node.output.image) == 3]
    sides = [node.output.image[1:] for node in nodes if isinstance(node.operation, (conv.Conv2d, Opaque))
             and node.output.image[1:] != (1, 1)]
    if not sides:
        raise NoFeatureMap(f"grad_cam: the model has no convolution whose output is larger than a pixel; name a layer "
                           f"whose output is (N, C, H, W): {_words(_maps(graph))}")
    node = [node for node in nodes if node.output.image[1:] == sides[-1]
            and not isinstance(node.operation, (pool.MaxPool2d, pool.AvgPool2d))][-1]
    names = {id(value): name for name, value in _layers(graph).items()}
    return names.get(id(node.output), node.operation.name), node.output


def _named(graph: Graph, layer: Any) -> tuple[str, Value]:
    """A layer's output, and its name."""
    if isinstance(layer, Module):
        layer = graph.modules.get(id(layer))
        if layer is None:
            raise ValueError("grad_cam: layer must be a layer of the model, got one of another")
    maps = _maps(graph)
    if not isinstance(layer, str):
        raise TypeError(f"grad_cam: layer must be a name or a Module, got {type(layer).__name__}")
    if layer not in maps:
        raise ValueError(f"grad_cam: layer must be one whose output is (N, C, H, W): {_words(maps)}; got "
                         f"{shapes.shown(layer)}")
    return layer, maps[layer]


def _layers(graph: Graph) -> dict[str, Value]:
    """The outputs of all layers inside by their names; the last of those that are called several times."""
    named = {name: node.output for node in graph.nodes for name in node.modules[:1]}
    named |= {graph.modules[id(module)]: result for module, _, result, *_ in graph.calls or ()
              if id(module) in graph.modules and isinstance(result, Value)}
    named.pop("", None)
    return named


def _maps(graph: Graph) -> dict[str, Value]:
    """Those whose outputs are images and that the scores depend on."""
    needed = {id(value) for value in graph.outputs}
    for node in reversed(graph.nodes):
        if id(node.output) in needed:
            needed.update(id(value) for value in node.inputs)
    return {name: value for name, value in _layers(graph).items() if len(value.image) == 3 and id(value) in needed}


def _words(maps: dict[str, Value]) -> str:
    return ", ".join(maps) or "there is none"
