"""surface-defects: which defect a machined part shows, from one 64 x 64 grey picture."""

import numpy as np

from . import network, parts
from .graph import Graph, tensor

NAME = "surface-defects"
TRAINING_COUNT = 18_000
HELD_OUT_COUNT = 3_000


def held_out():
    """Parts that training never sees, from a seed of their own: (pictures as bytes, class numbers)."""
    return parts.render_many(HELD_OUT_COUNT, np.random.default_rng(2))


def make():
    pictures, labels = parts.render_many(TRAINING_COUNT, np.random.default_rng(1))
    chance = np.random.default_rng(3)
    layers = [
        network.Conv(1, 12, 5, 2, chance),
        network.Relu(),
        network.Conv(12, 24, 3, 2, chance),
        network.Relu(),
        network.Conv(24, 48, 3, 2, chance),
        network.Relu(),
        network.Conv(48, 64, 3, 2, chance),
        network.Relu(),
        network.MeanAndMax(),
        network.Dense(128, len(parts.CLASSES), chance),
    ]
    network.train(
        layers,
        centred(pictures)[..., None],
        labels,
        network.softmax_gradient,
        chance,
        epochs=16,
        batch=50,
        rate=2e-3,
        vary=turned,
    )
    return export(layers)


def centred(pictures):
    """Grey values as the first convolution sees them; `export` writes the same into the graph."""
    return (pictures.astype(np.float32) / 255 - 0.5) * 4


def turned(batch, chance):
    """A part looks no less real mirrored or turned by a quarter, so every batch is."""
    batch = np.rot90(batch, chance.integers(4), axes=(1, 2))
    return batch[:, :, ::-1] if chance.random() < 0.5 else batch


def export(layers):
    graph = Graph()
    centre = graph.constant("centre", np.float32(0.5))
    gain = graph.constant("gain", np.float32(4))
    x = graph.node("Mul", [graph.node("Sub", ["image", centre], "centred"), gain], "scaled")
    for index, conv in enumerate(layer for layer in layers if isinstance(layer, network.Conv)):
        weight = graph.constant(f"conv{index}_weight", conv.onnx_weight)
        bias = graph.constant(f"conv{index}_bias", conv.dense.bias)
        x = graph.node(
            "Conv",
            [x, weight, bias],
            f"conv{index}",
            kernel_shape=[conv.size] * 2,
            strides=[conv.stride] * 2,
            pads=[conv.pad] * 4,
        )
        x = graph.node("Relu", [x], f"relu{index}")
    mean, peak = graph.node("GlobalAveragePool", [x], "mean"), graph.node("GlobalMaxPool", [x], "peak")
    x = graph.node("Flatten", [graph.node("Concat", [mean, peak], "pooled", axis=1)], "traits", axis=1)
    weight = graph.constant("dense_weight", layers[-1].weight)
    x = graph.node("Gemm", [x, weight, graph.constant("dense_bias", layers[-1].bias)], "logits")
    graph.node("Softmax", [x], "probabilities", axis=1)
    return graph.model(
        "surface_defects",
        [tensor("image", "FLOAT", ["batch", 1, parts.SIZE, parts.SIZE])],
        [tensor("probabilities", "FLOAT", ["batch", len(parts.CLASSES)])],
        "Grey values 0..1 in; probabilities of " + ", ".join(parts.CLASSES) + " out.",
    )
