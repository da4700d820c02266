"""One node that serves every real model, and Python's ONNX Runtime beside it."""

import pathlib
import sys

import numpy
import onnxruntime
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/compat"))

from wire import Node  # noqa: E402


@pytest.fixture(scope="session")
def node(tmp_path_factory):
    node = Node(tmp_path_factory.mktemp("node"), ROOT / "models/real")
    yield node
    node.close()


@pytest.fixture(scope="session")
def judge():
    """Runs a model with Python's ONNX Runtime, as a node does by default: one thread, all optimisations."""
    sessions = {}

    def run(model, inputs):
        if model not in sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            path = ROOT / "models/real" / model / "1/model.onnx"
            sessions[model] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        session = sessions[model]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run


@pytest.fixture
def random():
    return numpy.random.default_rng(20261101)
