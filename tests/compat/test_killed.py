"""Between the two rounds: a node is killed while all clients ask, and none of them notices."""

import json
import threading

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from websockets.sync.client import connect


def test_a_node_is_killed_and_no_client_notices(floor):
    stop, failures, answers = threading.Event(), [], [0, 0, 0]
    watcher = connect(f"ws://127.0.0.1:{floor.http}/rpc/ws").__enter__()
    watcher.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "cluster.watch"}))
    askers = [http_asker(floor), grpc_asker(floor), socket_asker(floor)]

    def keep_asking(at, ask):
        while not stop.is_set():
            try:
                assert ask() == 3.0
                answers[at] += 1
            except Exception as error:  # Whatever it is, a client noticed.
                failures.append(f"{type(error).__name__}: {error}")
                return

    threads = [threading.Thread(target=keep_asking, args=(at, ask)) for at, ask in enumerate(askers)]
    for thread in threads:
        thread.start()
    floor.until(lambda: failures or min(answers) >= 50)
    floor.kill("weld")
    after = [count + 100 for count in answers]
    floor.until(lambda: failures or (floor.alive() == 2 and all(a >= b for a, b in zip(answers, after))))
    watched = threading.Thread(target=until_watched, args=(watcher, "weld"))
    watched.start()
    watched.join(timeout=20)
    assert not watched.is_alive(), "the subscription told of no loss"
    watcher.close()
    stop.set()
    for thread in threads:
        thread.join(timeout=20)
    assert not failures, f"{failures[:3]} after {answers} answers"


def until_watched(socket, name):
    """Until the subscription says of this member that it is not alive."""
    for message in socket:
        members = json.loads(message).get("params", {}).get("result", {}).get("members", [])
        if any(row["name"] == name and row["state"] != "alive" for row in members):
            return


def http_asker(floor):
    client = triton_http.InferenceServerClient(f"127.0.0.1:{floor.http}", network_timeout=20, connection_timeout=20)
    return lambda: client.infer("add", tensors(triton_http)).as_numpy("sum").item()


def grpc_asker(floor):
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{floor.grpc}")
    return lambda: client.infer("add", tensors(triton_grpc), client_timeout=20).as_numpy("sum").item()


def socket_asker(floor):
    socket = connect(f"ws://127.0.0.1:{floor.http}/rpc/ws").__enter__()
    inputs = [{"name": n, "datatype": "FP32", "shape": [1], "data": [v]} for n, v in (("a", 1), ("b", 2))]

    def ask():
        socket.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "infer", "params": {"model": "add", "inputs": inputs}}))
        return json.loads(socket.recv(timeout=20))["result"]["outputs"][0]["data"][0]

    return ask


def tensors(module):
    inputs = []
    for name, value in (("a", 1.0), ("b", 2.0)):
        tensor = module.InferInput(name, [1], "FP32")
        tensor.set_data_from_numpy(np.array([value], np.float32))
        inputs.append(tensor)
    return inputs
