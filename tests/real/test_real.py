"""Every real model gives, through a node, the very bytes that Python's ONNX Runtime gives."""

import re

import numpy
import onnxruntime
import pytest
from conftest import ROOT

ROUNDS = 3


def floats(random, *shape):
    return random.normal(size=shape).astype(numpy.float32)


def tokens(random, rows, length):
    ids = random.integers(1000, 30000, size=(rows, length), dtype=numpy.int64)
    mask = numpy.ones_like(ids)
    mask[:, length - length // 4 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": numpy.zeros_like(ids)}


INPUTS = {
    "orientation": lambda random, size: {"x": floats(random, size, 3, 224, 224)},
    "file-type": lambda random, size: {"bytes": random.integers(0, 257, size=(size, 2048), dtype=numpy.int32)},
    "sentences": lambda random, size: tokens(random, size, 7 + 12 * size),
    "text-reader": lambda random, size: {"x": floats(random, size, 3, 48, 160 + 64 * size)},
    "text-finder": lambda random, size: {"x": floats(random, 1, 3, 160, 160 + 32 * size)},
    "text-angle": lambda random, size: {"x": floats(random, size, 3, 48, 192)},
    "vibration-forest": lambda random, size: {"features": floats(random, size, 16)},
    "resnet50": lambda random, size: {"gpu_0/data_0": floats(random, 1, 3, 224, 224)},
    "squeezenet": lambda random, size: {"data_0": floats(random, 1, 3, 224, 224)},
    "shufflenet": lambda random, size: {"gpu_0/data_0": floats(random, 1, 3, 224, 224)},
}


def same(given, expected):
    assert given.keys() == expected.keys()
    for name, array in expected.items():
        assert given[name].dtype == array.dtype, name
        assert given[name].shape == array.shape, name
        assert given[name].tobytes() == array.tobytes(), f"{name}: the largest difference is {farthest(given[name], array)}"


def farthest(one, other):
    return numpy.abs(one.astype(numpy.float64) - other.astype(numpy.float64)).max()


def test_the_judge_is_of_the_library_that_nodes_install():
    pin = (ROOT / "node/src/runtime/pin.rs").read_text()
    assert re.search(r'VERSION: &str = "([^"]+)"', pin).group(1) == onnxruntime.__version__


def test_every_fetched_model_is_served(node):
    for model in [*INPUTS, "voice-activity"]:
        assert node.document(f"/v2/models/{model}")["name"] == model


@pytest.mark.parametrize("model", INPUTS)
def test_answers_are_the_same_bit_for_bit(node, judge, random, model):
    for size in range(1, ROUNDS + 1):
        inputs = INPUTS[model](random, size)
        same(node.infer(model, inputs), judge(model, inputs))


def sound(random, steps):
    """Sound in chunks of 512 samples, each with the 64 before it."""
    samples = floats(random, 512 * steps) * numpy.float32(0.1)
    padded = numpy.concatenate([numpy.zeros(64, numpy.float32), samples])
    return [padded[None, 512 * step : 512 * step + 576] for step in range(steps)]


def test_a_sequence_goes_on_where_it_was(node, judge, random):
    state = numpy.zeros((2, 1, 128), numpy.float32)
    rate = numpy.array(16000, numpy.int64)
    chunks = sound(random, 12)
    for step, chunk in enumerate(chunks):
        expected = judge("voice-activity", {"input": chunk, "state": state, "sr": rate})
        state = expected["stateN"]
        parameters = {"sequence_id": 77, "sequence_start": step == 0, "sequence_end": step == len(chunks) - 1}
        given = node.infer("voice-activity", {"input": chunk, "sr": rate}, parameters)
        same(given, {"output": expected["output"]})


def test_a_caller_can_keep_the_state_itself(node, judge, random):
    state = numpy.zeros((2, 1, 128), numpy.float32)
    rate = numpy.array(16000, numpy.int64)
    handle = None
    for chunk in sound(random, 4):
        expected = judge("voice-activity", {"input": chunk, "state": state, "sr": rate})
        state = expected["stateN"]
        inputs = {"input": chunk, "sr": rate} | ({"sequence_state": handle} if handle is not None else {})
        parameters = {"sequence_state": True, "sequence_start": handle is None}
        given = node.infer("voice-activity", inputs, parameters)
        handle = given.pop("sequence_state")
        same(given, {"output": expected["output"]})


def test_sequences_do_not_mix(node, judge, random):
    rate = numpy.array(16000, numpy.int64)
    lines = {name: (sound(random, 4), numpy.zeros((2, 1, 128), numpy.float32)) for name in ["press", "weld", "paint"]}
    for step in range(4):
        for name, (chunks, state) in lines.items():
            expected = judge("voice-activity", {"input": chunks[step], "state": state, "sr": rate})
            lines[name] = (chunks, expected["stateN"])
            parameters = {"sequence_id": name, "sequence_start": step == 0, "sequence_end": step == 3}
            given = node.infer("voice-activity", {"input": chunks[step], "sr": rate}, parameters)
            same(given, {"output": expected["output"]})
