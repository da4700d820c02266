"""tritonclient over gRPC, on its own port and on HTTP's."""

import asyncio
import queue

import grpc as grpcio
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tensors import VALUES, same
from tritonclient.utils import InferenceServerException


@pytest.fixture(params=["own port", "port of HTTP"])
def where(request, http, grpc):
    return grpc if request.param == "own port" else http


@pytest.fixture
def client(where):
    with triton.InferenceServerClient(where) as client:
        yield client


def echo(module):
    inputs = []
    for datatype, values in VALUES.items():
        tensor = module.InferInput(f"in_{datatype.lower()}", values.shape, datatype)
        tensor.set_data_from_numpy(values)
        inputs.append(tensor)
    return inputs


def check(answer):
    for datatype, values in VALUES.items():
        assert same(answer.as_numpy(f"out_{datatype.lower()}"), values), datatype


@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
def test_every_datatype_comes_back_as_it_went(client, packed):
    for _ in range(3):
        answer = client.infer("echo", echo(triton), request_id="part-7", compression_algorithm=packed)
        check(answer)
        assert answer.get_response().id == "part-7"


def test_bf16(client):
    words = np.array([0x3F80, 0xC000, 0x0001], np.uint16)
    tensor = triton.InferInput("in_bf16", [3], "BF16")
    tensor._raw_content = words.tobytes()
    answer = client.infer("echo-bf16", [tensor]).get_response()
    assert answer.outputs[0].datatype == "BF16" and answer.raw_output_contents[0] == words.tobytes()


def test_metadata_health_and_statistics(client):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("add")
    assert not client.is_model_ready("nope")
    assert client.get_server_metadata().name == "lineside"
    assert [tensor.name for tensor in client.get_model_metadata("add").inputs] == ["a", "b"]
    assert client.get_model_config("add").config.name == "add"
    assert client.get_inference_statistics("add").model_stats[0].name == "add"
    assert any(model.name == "add" and model.state == "READY" for model in client.get_model_repository_index().models)


def test_a_configuration_and_statistics_of_joined_requests(client):
    config = client.get_model_config("mlp").config
    assert (config.max_batch_size, list(config.input[0].dims)) == (16, [784])
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert config.dynamic_batching.priority_levels == 2
    tensor = triton.InferInput("x", [3, 784], "FP32")
    tensor.set_data_from_numpy(np.ones((3, 784), np.float32))
    assert client.infer("mlp", [tensor], priority=1).as_numpy("y").shape == (3, 10)
    counted = client.get_inference_statistics("mlp").model_stats[0]
    assert 3 <= counted.inference_count and 0 < counted.execution_count and counted.batch_stats
    assert counted.response_stats["0"].success.count == counted.inference_stats.success.count


def test_a_stream_answers_each_request(client):
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for at in range(20):
        client.async_stream_infer("add", addends(triton, float(at), 1.0), request_id=str(at))
    got = {}
    for _ in range(20):
        result, error = answers.get(timeout=20)
        assert error is None
        got[result.get_response().id] = result.as_numpy("sum").item()
    client.stop_stream()
    assert got == {str(at): at + 1.0 for at in range(20)}


def test_a_stream_carries_a_sequence(client):
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    totals = []
    for at in range(1, 6):
        tensor = triton.InferInput("x", [1], "FP32")
        tensor.set_data_from_numpy(np.array([at], np.float32))
        order = {"sequence_id": 9, "sequence_start": at == 1, "sequence_end": at == 5}
        client.async_stream_infer("accumulate", [tensor], **order)
        result, error = answers.get(timeout=20)
        assert error is None, error
        totals.append(result.as_numpy("total").item())
    client.stop_stream()
    assert totals == [1.0, 3.0, 6.0, 10.0, 15.0]


def test_a_stream_keeps_the_order_of_a_sequence_that_nobody_waits_for(client):
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    # Small and large ones take different ways to a node.
    sizes = [1 if at % 3 else 20000 for at in range(30)]
    for at, size in enumerate(sizes):
        tensor = triton.InferInput("x", [size], "FP32")
        tensor.set_data_from_numpy(np.ones(size, np.float32))
        order = {"sequence_id": "press 7", "sequence_start": at == 0, "sequence_end": at == len(sizes) - 1}
        client.async_stream_infer("accumulate", [tensor], **order)
    totals = []
    for _ in sizes:
        result, error = answers.get(timeout=20)
        assert error is None, error
        totals.append(result.as_numpy("total").item())
    client.stop_stream()
    assert totals == np.cumsum(sizes).tolist()


def test_requests_of_many_callers_are_joined_and_answered_each(client):
    random = np.random.default_rng(7)
    rows = random.normal(size=(64, 1, 784)).astype(np.float32)

    def sent(row):
        tensor = triton.InferInput("x", row.shape, "FP32")
        tensor.set_data_from_numpy(row)
        return [tensor]

    alone = [client.infer("mlp", sent(row)).as_numpy("y") for row in rows[:4]]
    before = client.get_inference_statistics("mlp").model_stats[0]
    answers = queue.Queue()
    for at, row in enumerate(rows):
        client.async_infer("mlp", sent(row), lambda result, error, at=at: answers.put((at, result, error)))
    got = {}
    for _ in rows:
        at, result, error = answers.get(timeout=20)
        assert error is None, error
        got[at] = result.as_numpy("y")
    after = client.get_inference_statistics("mlp").model_stats[0]
    assert after.inference_count - before.inference_count == 64
    assert after.execution_count - before.execution_count < 64
    for at, expected in enumerate(alone):
        np.testing.assert_allclose(got[at], expected, rtol=1e-4, atol=1e-7)


def test_a_stream_says_what_is_wrong_and_goes_on(client):
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    client.async_stream_infer("nope", addends(triton, 1.0, 1.0))
    _, error = answers.get(timeout=20)
    assert "Request for unknown model" in error.message()
    client.async_stream_infer("add", addends(triton, 1.0, 1.0))
    result, error = answers.get(timeout=20)
    assert error is None and result.as_numpy("sum").item() == 2.0
    client.stop_stream()


def test_many_at_once(client):
    answers = queue.Queue()
    for at in range(40):
        client.async_infer("add", addends(triton, float(at), 1.0), lambda result, error: answers.put((result, error)))
    got = [answers.get(timeout=20) for _ in range(40)]
    assert all(error is None for _, error in got)
    assert sorted(result.as_numpy("sum").item() for result, _ in got) == [at + 1.0 for at in range(40)]


def test_the_asyncio_client(where):
    async def run():
        async with triton_aio.InferenceServerClient(where) as client:
            assert await client.is_server_ready()
            check(await client.infer("echo", echo(triton_aio)))

            async def requests():
                for at in range(5):
                    yield {"model_name": "add", "inputs": addends(triton_aio, float(at), 1.0), "request_id": str(at)}

            got = {}
            async for result, error in client.stream_infer(requests()):
                assert error is None
                got[result.get_response().id] = result.as_numpy("sum").item()
                if len(got) == 5:
                    break
            assert got == {str(at): at + 1.0 for at in range(5)}

    asyncio.run(run())


def test_typed_contents(where):
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with grpcio.insecure_channel(where) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.ModelInferRequest(model_name="add")
        for name in ["a", "b"]:
            tensor = request.inputs.add(name=name, datatype="FP32", shape=[2])
            tensor.contents.fp32_contents.extend([1.5, 2.0])
        answer = stub.ModelInfer(request, timeout=10)
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [3.0, 4.0]


def test_classes_have_their_labels(client):
    picture = triton.InferInput("image", [1, 3, 32, 32], "FP32")
    picture.set_data_from_numpy(np.tile(np.array([0, 1, 0], np.float32).reshape(1, 3, 1, 1), (1, 1, 32, 32)))
    wanted = [triton.InferRequestedOutput("logits", class_count=2)]
    texts = client.infer("color", [picture], outputs=wanted).as_numpy("logits").reshape(-1)
    assert texts.size == 2 and texts[0].endswith(b":1:green")


def test_deadlines_of_both_kinds(client):
    assert client.infer("add", addends(triton, 1.0, 2.0), timeout=5_000_000, client_timeout=20).as_numpy("sum") == [3.0]
    with pytest.raises(InferenceServerException) as late:
        client.infer("add", addends(triton, 1.0, 2.0), timeout=1)
    assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_what_is_wrong_is_said(client):
    with pytest.raises(InferenceServerException, match="Request for unknown model") as refused:
        client.infer("nope", addends(triton, 1.0, 2.0))
    assert refused.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException) as refused:
        client.infer("add", addends(triton, 1.0, 2.0)[:1])
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


def addends(module, a, b):
    inputs = []
    for name, value in [("a", a), ("b", b)]:
        tensor = module.InferInput(name, [1], "FP32")
        tensor.set_data_from_numpy(np.array([value], np.float32))
        inputs.append(tensor)
    return inputs
