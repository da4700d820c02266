"""Writes ONNX graphs by hand.

The operator set and the format version are old on purpose, so that the ONNX Runtime a plant already has
loads the models.
"""

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

OPSET = 17
IR_VERSION = 8


class Graph:
    """Nodes and constants, in the order they are added."""

    def __init__(self):
        self.nodes = []
        self.constants = []

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, operator, inputs, output, **attributes):
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def model(self, name, inputs, outputs, doc):
        """Checks the graph and returns it as bytes. `inputs` and `outputs` come from `tensor`."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.constants, doc_string=doc)
        model = helper.make_model(
            graph,
            producer_name="lineside-models",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
        checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)


def tensor(name, datatype, shape):
    """Describes an input or output. A word in `shape` is a dimension known only when the model runs."""
    return helper.make_tensor_value_info(name, getattr(TensorProto, datatype), shape)
