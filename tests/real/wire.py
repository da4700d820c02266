"""A node as a process of its own, asked in the protocol's binary form: bytes in, bytes out."""

import json
import signal
import subprocess
import time
import urllib.request

import numpy
from floor import BINARY, PATIENCE_S, free_port, get, surroundings

TYPES = {"float32": "FP32", "int32": "INT32", "int64": "INT64", "bool": "BOOL", "float64": "FP64"}
BACK = {name: numpy.dtype(kind) for kind, name in TYPES.items()}


class Node:
    def __init__(self, home, models):
        self.http = free_port()
        arguments = ["up", "--data-dir", home / "data", "--models", models, "--no-mdns"]
        arguments += ["--listen", f"127.0.0.1:{free_port()}", "--http", f"127.0.0.1:{self.http}"]
        self.log = home / "log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [BINARY, *arguments], stdout=log, stderr=subprocess.STDOUT, env=surroundings(), start_new_session=True
            )
        self.wait([path.name for path in models.iterdir() if path.is_dir()])

    def wait(self, models):
        """Until every model of the repository serves."""
        deadline = time.monotonic() + 3 * PATIENCE_S
        while any(get(self.http, f"/v2/models/{model}/ready") is None for model in models):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(0.1)

    def infer(self, model, inputs, parameters=None, outputs=None):
        """The outputs by name."""
        tensors, raw = [], b""
        for name, array in inputs.items():
            datatype = "BYTES" if isinstance(array, bytes) else TYPES[array.dtype.name]
            bytes_of = array if datatype == "BYTES" else numpy.ascontiguousarray(array).tobytes()
            tensor = {"name": name, "datatype": datatype, "shape": [1] if datatype == "BYTES" else list(array.shape)}
            tensors.append(tensor | {"parameters": {"binary_data_size": len(bytes_of)}})
            raw += bytes_of
        document = {"inputs": tensors, "parameters": {"binary_data_output": True} | (parameters or {})}
        if outputs:
            document["outputs"] = [{"name": name} for name in outputs]
        head = json.dumps(document).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http}/v2/models/{model}/infer",
            head + raw,
            {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            body, length = answer.read(), answer.headers.get("Inference-Header-Content-Length")
        head = json.loads(body[: int(length)] if length else body)
        given, at = {}, int(length or 0)
        for output in head["outputs"]:
            size = output["parameters"]["binary_data_size"]
            given[output["name"]] = decoded(output, body[at : at + size])
            at += size
        return given

    def document(self, path):
        return json.loads(get(self.http, path))

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()


def decoded(output, raw):
    """A tensor; BYTES stay as they came."""
    if output["datatype"] == "BYTES":
        return raw
    return numpy.frombuffer(raw, BACK[output["datatype"]]).reshape(output["shape"])
