"""LitServe with one model: `python litserve_server.py MODEL.onnx PORT`. Takes POST /predict with base64."""

import base64
import os
import sys

import litserve
import numpy
import onnxruntime


class Runs(litserve.LitAPI):
    """One session of one thread in each worker, as a node has."""

    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def decode_request(self, request):
        raw = base64.b64decode(request["data"])
        return numpy.frombuffer(raw, numpy.float32).reshape(request["shape"])

    def predict(self, tensor):
        return self.session.run(None, {self.input: tensor})[0]

    def encode_response(self, output):
        return {"shape": output.shape, "data": base64.b64encode(output.tobytes()).decode()}


if __name__ == "__main__":
    server = litserve.LitServer(Runs(), accelerator="cpu", workers_per_device=os.cpu_count())
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning", access_log=False)
