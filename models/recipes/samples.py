"""Writes the sample inputs with the answers to expect, and the accuracies that the README states.

The samples are drawn by chance from the held-out sets, with a fixed seed and before any model has seen them.
"""

import json

import numpy as np

from . import parts, png, surface, tasks, vibration
from .bearings import FEATURES
from .places import ACCURACY, SAMPLES, SERVED, Model, classify, judge, model_file, write, write_json

PICTURES_PER_CLASS = 20
ROWS = 200


def make():
    accuracy = {surface.NAME: make_surface(), vibration.NAME: make_vibration()}
    write(ACCURACY, json.dumps(accuracy, indent=2) + "\n")
    make_add()
    tasks.make_samples()


def make_surface():
    pictures, labels = surface.held_out()
    answers = classify(Model(model_file(SERVED, surface.NAME)), pictures)
    chance = np.random.default_rng(4)
    chosen = np.concatenate(
        [
            np.sort(chance.choice(np.flatnonzero(labels == label), PICTURES_PER_CLASS, replace=False))
            for label in range(len(parts.CLASSES))
        ]
    )
    images = []
    for place, index in enumerate(chosen):
        label = parts.CLASSES[labels[index]]
        name = f"{label}-{place % PICTURES_PER_CLASS:02}.png"
        images.append({"file": name, "label": label, "expected": parts.CLASSES[answers[index]]})
        write(SAMPLES / surface.NAME / name, png.encode(pictures[index]))
    write(SAMPLES / surface.NAME / "images.u8", pictures[chosen].tobytes())
    head = {"classes": parts.CLASSES, "height": parts.SIZE, "width": parts.SIZE}
    write_json(SAMPLES / surface.NAME / "labels.json", head, "images", images)
    return measured(answers == labels, chosen)


def make_vibration():
    features, faulty = vibration.held_out()
    features = np.array([[shortened(value) for value in row] for row in features], np.float32)
    answers = judge(Model(model_file(SERVED, vibration.NAME)), features)
    chosen = np.sort(np.random.default_rng(14).choice(len(features), ROWS, replace=False))
    rows = [
        {
            "features": [shortened(value) for value in features[index]],
            "anomalous": bool(faulty[index]),
            "expected": bool(answers[index]),
        }
        for index in chosen
    ]
    write_json(SAMPLES / vibration.NAME / "rows.json", {"names": FEATURES}, "rows", rows)
    return measured(answers == faulty, chosen)


def make_add():
    # Every sum is exact in FP32, so a test may compare for equality.
    cases = [
        ([2.0, 3.0], [5.0, 7.0]),
        ([0.5], [0.25]),
        ([1.0, -1.0, 0.0, 1e6], [-1.0, 1.0, 0.0, 0.125]),
        ([], []),
    ]
    cases = [{"a": a, "b": b, "sum": [x + y for x, y in zip(a, b)]} for a, b in cases]
    write_json(SAMPLES / "add.json", {}, "cases", cases)


def shortened(value):
    """Six digits say all that a sensor knows, and every JSON reader gives the same float back."""
    return float(f"{value:.6g}")


def measured(correct, chosen):
    return {
        "held_out": len(correct),
        "held_out_correct": int(correct.sum()),
        "samples": len(chosen),
        "samples_correct": int(correct[chosen].sum()),
    }
