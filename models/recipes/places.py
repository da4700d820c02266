"""Where everything lies, and how it is read and written."""

import json
from pathlib import Path

import numpy as np
import onnxruntime

MODELS = Path(__file__).resolve().parent.parent
SERVED = MODELS / "repository"
TESTED = MODELS / "test"
SAMPLES = MODELS / "samples"
ACCURACY = MODELS / "accuracy.json"
README = MODELS / "README.md"


def model_file(root, name):
    return root / name / "1" / "model.onnx"


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def write_json(path, head, list_name, items):
    """`head`'s entries, then one list with a line for each item, so that a difference reads well."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items()]
    rows = ",\n".join(f"    {json.dumps(item)}" for item in items)
    write(path, "{\n" + "".join(lines) + f"  {json.dumps(list_name)}: [\n{rows}\n  ]\n}}\n")


def read_json(path):
    return json.loads(path.read_text())


class Model:
    """A session on one core, as a Lineside node runs it by default."""

    def __init__(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # The check opens a broken model on purpose; its error is the answer.
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, **inputs):
        """Outputs by name."""
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, inputs)))

    def interface(self):
        """(inputs, outputs), each {name: (type, shape)}."""
        ends = self.session.get_inputs(), self.session.get_outputs()
        return tuple({end.name: (end.type, end.shape) for end in side} for side in ends)


def classify(model, pictures):
    """Class numbers of [n, 64, 64] bytes."""
    image = pictures[:, None].astype(np.float32) / 255
    return model.run(image=image)["probabilities"].argmax(1)


def judge(model, features):
    """Whether each row of features is anomalous."""
    return model.run(features=features)["anomalous"][:, 0]
