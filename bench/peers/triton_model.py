"""The Python backend's model for tritonserver: one session of one thread in each instance, as a node has."""

import json
import os

import numpy
import onnxruntime
import triton_python_backend_utils as backend


class TritonPythonModel:
    def initialize(self, args):
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        config = json.loads(args["model_config"])
        self.input, self.output = config["input"][0]["name"], config["output"][0]["name"]
        self.joins = config["max_batch_size"] > 0

    def execute(self, requests):
        inputs = [backend.get_input_tensor_by_name(request, self.input).as_numpy() for request in requests]
        if self.joins:
            rows = self.session.run(None, {self.input: numpy.concatenate(inputs)})[0]
            ends = numpy.cumsum([len(tensor) for tensor in inputs])[:-1]
            outputs = numpy.split(rows, ends)
        else:
            outputs = [self.session.run(None, {self.input: tensor})[0] for tensor in inputs]
        tensors = [backend.Tensor(self.output, output) for output in outputs]
        return [backend.InferenceResponse([tensor]) for tensor in tensors]
