"""Models without training: `add` for the samples, and those that the tests of the cluster need."""

import numpy as np
from onnx import helper

from .graph import Graph, tensor

# Edge of the matrices that slow-add multiplies. One product stays below the size from which ONNX Runtime
# splits it over threads, so the model keeps one core busy and no other.
EDGE = 32
PRODUCTS_PER_ROUND = 32

# Of mlp: a small picture in, ten classes out.
MLP_WIDTHS = [784, 512, 512, 10]

# Open Inference Protocol name -> ONNX name. BF16 is missing: numpy has no such type, so we could not check it.
DATATYPES = {
    "BOOL": "BOOL",
    "UINT8": "UINT8",
    "UINT16": "UINT16",
    "UINT32": "UINT32",
    "UINT64": "UINT64",
    "INT8": "INT8",
    "INT16": "INT16",
    "INT32": "INT32",
    "INT64": "INT64",
    "FP16": "FLOAT16",
    "FP32": "FLOAT",
    "FP64": "DOUBLE",
    "BYTES": "STRING",
}


def add():
    graph = Graph()
    graph.node("Add", ["a", "b"], "sum")
    return graph.model("add", [vector("a"), vector("b")], [vector("sum")], "sum = a + b, element by element.")


def slow_add(times=1):
    """`add`, after `rounds` rounds of work, or so many times as many, that no optimiser can drop."""
    graph = Graph()

    def rounds():
        count = graph.node("Squeeze", ["rounds"], "count")
        return count if times == 1 else graph.node("Mul", [count, graph.constant("times", np.int64(times))], "count_times")

    nothing = work(graph, rounds)
    graph.node("Add", [graph.node("Add", ["a", "b"], "quick_sum"), nothing], "sum")
    return graph.model(
        "slow_add",
        [vector("a"), vector("b"), tensor("rounds", "INT64", [1])],
        [vector("sum")],
        "sum = a + b, after `rounds` rounds of work on one core.",
    )


def work(graph, rounds):
    """Adds rounds of work to a graph that has an input `a`; `rounds` adds what counts them. Returns a scalar 0.

    The work starts from `a`, so it is no constant, and its result decides what is added to the sum: one if
    any value exceeds 2, else nothing. Tanh keeps every value below 1, but only a reader of mathematics knows.
    """
    body = Graph()
    x = "state_in"
    for index in range(PRODUCTS_PER_ROUND):
        x = body.node("MatMul", [x, "mirror"], f"product{index}")
    body.node("Tanh", [x], "state_out")
    body.node("Identity", ["go_in"], "go_out")
    state = [EDGE, EDGE]
    round_ = helper.make_graph(
        body.nodes,
        "round",
        [tensor("round", "INT64", []), tensor("go_in", "BOOL", []), tensor("state_in", "FLOAT", state)],
        [tensor("go_out", "BOOL", []), tensor("state_out", "FLOAT", state)],
    )

    # A Householder reflection: it turns vectors without stretching them, so the work never over- or underflows.
    graph.constant("mirror", (np.eye(EDGE) - 2 / EDGE).astype(np.float32))
    pattern = np.cos(np.arange(EDGE * EDGE)).reshape(EDGE, EDGE).astype(np.float32)
    total = graph.node("ReduceSum", ["a"], "total", keepdims=0)
    start = graph.node("Add", [graph.node("Tanh", [total], "seed"), graph.constant("pattern", pattern)], "start")
    count = rounds()
    end = graph.node("Loop", [count, graph.constant("go", np.array(True)), start], "end", body=round_)
    calm = graph.node("Tanh", [end], "calm")  # Also bounds `start`, when there are no rounds.
    peak = graph.node("ReduceMax", [calm], "peak", keepdims=0)
    beyond = graph.node("Greater", [peak, graph.constant("two", np.float32(2))], "beyond")
    return graph.node("Cast", [beyond], "nothing", to=helper.np_dtype_to_tensor_dtype(np.dtype(np.float32)))


def is_large(graph):
    """Adds whether a sum is larger than any that a node makes up to try or warm a model: 0 or 1, INT64."""
    size = graph.node("Abs", [graph.node("Add", ["a", "b"], "quick_sum")], "size")
    largest = graph.node("ReduceMax", [size], "largest", keepdims=0)
    is_beyond = graph.node("Greater", [largest, graph.constant("made_up_max", np.float32(2))], "is_large")
    return graph.node("Cast", [is_beyond], "large", to=helper.np_dtype_to_tensor_dtype(np.dtype(np.int64)))


def add_fails():
    """`add` that loads well and then fails at every real sum: it looks for one beyond the end of a table."""
    graph = Graph()
    table = graph.constant("table", np.zeros(1, np.float32))
    nothing = graph.node("Gather", [table, is_large(graph)], "nothing")
    graph.node("Add", ["quick_sum", nothing], "sum")
    return graph.model("add", [vector("a"), vector("b")], [vector("sum")], "sum = a + b, and an error beyond 2.")


def add_hangs():
    """`add` that loads well and then works at every real sum until it is stopped."""
    graph = Graph()
    for_ever = graph.node("Mul", [is_large(graph), graph.constant("for_ever", np.int64(1 << 62))], "rounds")
    graph.node("Add", ["quick_sum", work(graph, lambda: for_ever)], "sum")
    return graph.model("add", [vector("a"), vector("b")], [vector("sum")], "sum = a + b, and no end beyond 2.")


def mlp():
    """A dense network of three layers, whose rows cost a sixth when sixteen of them run together.

    Its weights are a formula that ONNX Runtime computes when it loads the model, so that the file stays small.
    """
    graph = Graph()
    x = "x"
    for layer, (rows, columns) in enumerate(zip(MLP_WIDTHS, MLP_WIDTHS[1:], strict=False)):
        count = [graph.constant(f"{name}{layer}", np.float32(at)) for name, at in (("from", 0), ("to", rows * columns))]
        numbers = graph.node("Range", [*count, graph.constant(f"step{layer}", np.float32(1))], f"numbers{layer}")
        waves = graph.node("Cos", [numbers], f"waves{layer}")
        scale = graph.constant(f"scale{layer}", np.float32(np.sqrt(2 / rows)))
        flat = graph.node("Mul", [waves, scale], f"flat{layer}")
        shape = graph.constant(f"shape{layer}", np.array([rows, columns], np.int64))
        weights = graph.node("Reshape", [flat, shape], f"weights{layer}")
        last = layer == len(MLP_WIDTHS) - 2
        x = graph.node("MatMul", [x, weights], "y" if last else f"product{layer}")
        x = x if last else graph.node("Relu", [x], f"hidden{layer}")
    return graph.model(
        "mlp",
        [tensor("x", "FLOAT", ["batch", MLP_WIDTHS[0]])],
        [tensor("y", "FLOAT", ["batch", MLP_WIDTHS[-1]])],
        "Three dense layers; rows that run together cost less.",
    )


def echo():
    graph = Graph()
    inputs, outputs = [], []
    for name, onnx_name in DATATYPES.items():
        graph.node("Identity", [f"in_{name.lower()}"], f"out_{name.lower()}")
        inputs.append(vector(f"in_{name.lower()}", onnx_name))
        outputs.append(vector(f"out_{name.lower()}", onnx_name))
    return graph.model("echo", inputs, outputs, "Gives back every input as it came.")


def echo_bf16():
    """BF16 by itself: numpy lacks it, so the checks of the others leave it out."""
    graph = Graph()
    graph.node("Identity", ["in_bf16"], "out_bf16")
    text = "Gives back its input as it came."
    return graph.model("echo-bf16", [vector("in_bf16", "BFLOAT16")], [vector("out_bf16", "BFLOAT16")], text)


ACCUMULATE_SETTINGS = """\
# Callers send `x` and get `total`; the node keeps what lies between two requests of a sequence.
[sequence]
states = [{ input = "sum", output = "sum_next" }]
"""


def accumulate():
    """A model with a state: the sum of all that its sequence was given so far."""
    graph = Graph()
    graph.node("Add", ["sum", graph.node("ReduceSum", ["x"], "part", keepdims=1)], "sum_next")
    graph.node("Identity", ["sum_next"], "total")
    one = [1]
    return graph.model(
        "accumulate",
        [vector("x"), tensor("sum", "FLOAT", one)],
        [tensor("total", "FLOAT", one), tensor("sum_next", "FLOAT", one)],
        "total = sum + all of x, which is also the next sum.",
    )


def broken():
    return b"This is not an ONNX model. A node that finds it says so and serves the others.\n"


def vector(name, datatype="FLOAT"):
    return tensor(name, datatype, ["n"])
