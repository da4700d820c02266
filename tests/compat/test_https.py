"""The same clients over HTTPS, with a certificate that the cluster's authority made, on the port of plain HTTP."""

import json
import ssl

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from websockets.sync.client import connect


@pytest.fixture
def authority(floor, nodes):
    return str(floor.authority())


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_tritonclient_over_grpc(floor, authority, host):
    for port in (floor.grpc, floor.http):
        with triton_grpc.InferenceServerClient(f"{host}:{port}", ssl=True, root_certificates=authority) as client:
            assert client.infer("add", addends(triton_grpc)).as_numpy("sum").item() == 3.0


def test_tritonclient_over_http(floor, authority):
    context = lambda: ssl.create_default_context(cafile=authority)
    with triton_http.InferenceServerClient(f"localhost:{floor.http}", ssl=True, ssl_context_factory=context) as client:
        assert client.infer("add", addends(triton_http)).as_numpy("sum").item() == 3.0


def test_a_websocket(floor, authority):
    context = ssl.create_default_context(cafile=authority)
    with connect(f"wss://localhost:{floor.http}/rpc/ws", ssl=context) as socket:
        socket.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "health"}))
        assert json.loads(socket.recv(timeout=20))["result"]["ready"] is True


def addends(module):
    inputs = []
    for name, value in (("a", 1.0), ("b", 2.0)):
        tensor = module.InferInput(name, [1], "FP32")
        tensor.set_data_from_numpy(np.array([value], np.float32))
        inputs.append(tensor)
    return inputs
