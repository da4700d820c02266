"""vibration-anomaly: whether a bearing has begun to fail, from sixteen numbers about its vibration."""

import numpy as np

from . import network
from .bearings import FEATURES, measure_many
from .graph import Graph, tensor

NAME = "vibration-anomaly"
TRAINING_COUNT = 8_000
HELD_OUT_COUNT = 4_000


def held_out():
    """Bearings that training never sees, from a seed of their own: (features, whether faulty)."""
    return measure_many(HELD_OUT_COUNT, np.random.default_rng(12))


def make():
    features, faulty = measure_many(TRAINING_COUNT, np.random.default_rng(11))
    centre, spread = features.mean(0), features.std(0)
    chance = np.random.default_rng(13)
    layers = [
        network.Dense(len(FEATURES), 32, chance),
        network.Relu(),
        network.Dense(32, 16, chance),
        network.Relu(),
        network.Dense(16, 1, chance),
    ]
    network.train(
        layers,
        (features - centre) / spread,
        faulty,
        network.sigmoid_gradient,
        chance,
        epochs=60,
        batch=50,
        rate=3e-3,
    )
    return export(layers, centre, spread)


def export(layers, centre, spread):
    graph = Graph()
    x = graph.node("Sub", ["features", graph.constant("centre", centre)], "centred")
    x = graph.node("Div", [x, graph.constant("spread", spread)], "scaled")
    for index, layer in enumerate(layers):
        if isinstance(layer, network.Dense):
            weight = graph.constant(f"dense{index}_weight", layer.weight)
            x = graph.node("Gemm", [x, weight, graph.constant(f"dense{index}_bias", layer.bias)], f"dense{index}")
        else:
            x = graph.node("Relu", [x], f"relu{index}")
    graph.node("Sigmoid", [x], "score")
    graph.node("Greater", ["score", graph.constant("threshold", np.float32(0.5))], "anomalous")
    return graph.model(
        "vibration_anomaly",
        [tensor("features", "FLOAT", ["batch", len(FEATURES)])],
        [tensor("score", "FLOAT", ["batch", 1]), tensor("anomalous", "BOOL", ["batch", 1])],
        "Features, in order: " + ", ".join(FEATURES) + ".",
    )
