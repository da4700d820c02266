"""JSON-RPC 2.0 by a client library, over HTTP and WebSocket."""

import json
import urllib.request

import jsonrpcclient
import pytest
from websockets.sync.client import connect

ADD = {
    "model": "add",
    "inputs": [
        {"name": "a", "datatype": "FP32", "shape": [2], "data": [1, 2]},
        {"name": "b", "datatype": "FP32", "shape": [2], "data": [3, 4]},
    ],
}


def http_call(http, request):
    body = json.dumps(request).encode()
    with urllib.request.urlopen(f"http://{http}/rpc", body, timeout=20) as answer:
        text = answer.read()
        return answer.status, json.loads(text) if text else None


@pytest.fixture(params=["http", "websocket"])
def ask(request, http):
    if request.param == "http":
        yield lambda call: http_call(http, call)[1]
    else:
        with connect(f"ws://{http}/rpc/ws") as socket:

            def by_socket(call):
                socket.send(json.dumps(call))
                return json.loads(socket.recv(timeout=20))

            yield by_socket


def test_calls_are_answered(ask):
    parsed = jsonrpcclient.parse(ask(jsonrpcclient.request("infer", params=ADD)))
    assert isinstance(parsed, jsonrpcclient.Ok) and parsed.result["outputs"][0]["data"] == [4.0, 6.0]
    parsed = jsonrpcclient.parse(ask(jsonrpcclient.request("models.list")))
    assert {"add", "echo"} <= {model["name"] for model in parsed.result["models"]}
    discovered = jsonrpcclient.parse(ask(jsonrpcclient.request("rpc.discover"))).result
    assert "infer" in {method["name"] for method in discovered["methods"]}


def test_errors_have_their_codes(ask):
    for request, code in [
        (jsonrpcclient.request("nope"), -32601),
        (jsonrpcclient.request("infer", params={"model": "add"}), -32602),
        ({"jsonrpc": "2.0", "method": 1, "id": 1}, -32600),
        (jsonrpcclient.request("infer", params=ADD | {"model": "nope"}), -32002),
    ]:
        parsed = jsonrpcclient.parse(ask(request))
        assert isinstance(parsed, jsonrpcclient.Error) and parsed.code == code, request


@pytest.mark.parametrize("id", [1.5, -7, 2**70, "part-7", "", None])
def test_an_id_comes_back_as_it_went(ask, id):
    answer = ask({"jsonrpc": "2.0", "method": "health", "id": id})
    assert answer["id"] == id and answer["result"]["live"] is True


def test_params_by_position_are_refused_in_words(ask):
    parsed = jsonrpcclient.parse(ask(jsonrpcclient.request("models.get", params=("add",))))
    assert parsed.code == -32602 and "by name" in parsed.message


def test_a_batch_has_64_entries_at_most(ask):
    calls = [jsonrpcclient.request("health") for _ in range(64)]
    assert len(ask(calls)) == 64
    assert ask([*calls, jsonrpcclient.request("health")])["error"]["code"] == -32600


def test_a_batch_is_answered_entry_by_entry(ask):
    calls = [jsonrpcclient.request("infer", params=ADD) for _ in range(5)]
    parsed = jsonrpcclient.parse(ask([*calls, jsonrpcclient.notification("health")]))
    assert {answer.id for answer in parsed} == {call["id"] for call in calls}
    assert all(answer.result["outputs"][0]["data"] == [4.0, 6.0] for answer in parsed)


def test_base64_tensors(ask):
    import base64
    import struct

    packed = base64.b64encode(struct.pack("<2f", 1, 2)).decode()
    tensor = {"datatype": "FP32", "shape": [2], "encoding": "base64", "data": packed}
    params = {"model": "add", "inputs": [{"name": "a", **tensor}, {"name": "b", **tensor}], "encoding": "base64"}
    output = jsonrpcclient.parse(ask(jsonrpcclient.request("infer", params=params))).result["outputs"][0]
    assert struct.unpack("<2f", base64.b64decode(output["data"])) == (2.0, 4.0)


def test_notifications_alone_have_no_answer(http, nodes):
    assert http_call(http, jsonrpcclient.notification("health")) == (204, None)
    assert http_call(http, [jsonrpcclient.notification("health")] * 2) == (204, None)


def test_one_socket_carries_many_calls_and_a_subscription(http, nodes):
    with connect(f"ws://{http}/rpc/ws") as socket:
        watch = jsonrpcclient.request("cluster.watch")
        socket.send(json.dumps(watch))
        calls = [jsonrpcclient.request("infer", params=ADD) for _ in range(20)]
        for call in calls:
            socket.send(json.dumps(call))
        answered, members = {}, None
        while len(answered) < len(calls) + 1 or members is None:
            message = json.loads(socket.recv(timeout=20))
            if "id" in message:
                answered[message["id"]] = message["result"]
            else:
                members = message["params"]["result"]["members"]
        assert set(answered) == {call["id"] for call in [watch, *calls]}
        assert {row["name"] for row in members} == {"press", "weld", "paint"}
