"""tritonclient over HTTP: the client that most inference programs have."""

import asyncio

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
import tritonclient.http.auth as triton_auth
from tensors import ONLY_BINARY, VALUES, same
from tritonclient.utils import InferenceServerException

FORMS = [(i, o) for i in ("json", "binary") for o in ("json", "binary")]


@pytest.fixture
def client(http):
    with triton.InferenceServerClient(http) as client:
        yield client


def echo(module, form_in, form_out):
    inputs, outputs = [], []
    for datatype, values in VALUES.items():
        tensor = module.InferInput(f"in_{datatype.lower()}", values.shape, datatype)
        tensor.set_data_from_numpy(values, binary_data=form_in == "binary" or datatype in ONLY_BINARY)
        inputs.append(tensor)
        binary = form_out == "binary" or datatype in ONLY_BINARY
        outputs.append(module.InferRequestedOutput(f"out_{datatype.lower()}", binary_data=binary))
    return inputs, outputs


def check(answer):
    for datatype, values in VALUES.items():
        got = answer.as_numpy(f"out_{datatype.lower()}")
        assert same(got, values), f"{datatype}: {got}"


@pytest.mark.parametrize("form_in,form_out", FORMS)
@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
def test_every_datatype_comes_back_as_it_went(client, form_in, form_out, packed):
    inputs, outputs = echo(triton, form_in, form_out)
    for _ in range(3):
        answer = client.infer(
            "echo",
            inputs,
            outputs=outputs,
            request_id="part-7",
            request_compression_algorithm=packed,
            response_compression_algorithm=packed,
        )
        check(answer)
        assert answer.get_response()["id"] == "part-7"


def test_bf16_goes_as_binary(client):
    words = np.array([0x3F80, 0xC000, 0x0001], np.uint16)
    tensor = triton.InferInput("in_bf16", [3], "BF16")
    tensor._raw_data = words.tobytes()
    tensor._parameters["binary_data_size"] = len(tensor._raw_data)
    answer = client.infer("echo-bf16", [tensor], outputs=[triton.InferRequestedOutput("out_bf16", binary_data=True)])
    assert answer.get_output("out_bf16")["datatype"] == "BF16"
    assert answer._buffer[: len(words) * 2] == words.tobytes()


def test_metadata_health_and_statistics(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("add") and client.is_model_ready("add", "1")
    assert not client.is_model_ready("nope")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("add")
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["a", "b"]
    config = client.get_model_config("add")
    assert config["name"] == "add" and config["input"][0]["data_type"] == "TYPE_FP32"
    before = client.get_inference_statistics("add")["model_stats"][0]["inference_stats"]["success"]["count"]
    add(client, 1.0, 2.0)
    after = client.get_inference_statistics("add")["model_stats"][0]["inference_stats"]["success"]["count"]
    assert after == before + 1
    assert client.get_log_settings()["log_error"] is True


def test_many_at_once(http, nodes):
    with triton.InferenceServerClient(http, concurrency=4) as client:
        pending = [client.async_infer("add", addends(float(i), 1.0)) for i in range(40)]
        sums = [request.get_result().as_numpy("sum").item() for request in pending]
    assert sums == [i + 1.0 for i in range(40)]


def test_requests_are_joined(http, nodes):
    with triton.InferenceServerClient(http, concurrency=24) as client:
        config = client.get_model_config("mlp")
        assert (config["max_batch_size"], config["input"][0]["dims"]) == (16, [784])
        assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 50_000
        assert client.get_model_metadata("mlp")["inputs"][0]["shape"] == [-1, 784]
        before = counts(client)
        alone = client.infer("mlp", picture(triton, 0)).as_numpy("y")
        pending = [client.async_infer("mlp", picture(triton, 0)) for _ in range(48)]
        for request in pending:
            np.testing.assert_allclose(request.get_result().as_numpy("y"), alone, rtol=1e-5, atol=1e-6)
        after = counts(client)
        assert after["rows"] == before["rows"] + 49 and after["runs"] < before["runs"] + 49
        assert any(1 < size for size in after["sizes"]), after


def counts(client):
    model = client.get_inference_statistics("mlp")["model_stats"][0]
    sizes = [batch["batch_size"] for batch in model["batch_stats"]]
    return {"rows": model["inference_count"], "runs": model["execution_count"], "sizes": sizes}


def picture(module, seed):
    tensor = module.InferInput("x", [1, 784], "FP32")
    tensor.set_data_from_numpy(np.random.default_rng(seed).random((1, 784), np.float32))
    return [tensor]


def test_priorities(client):
    assert client.get_model_config("mlp")["dynamic_batching"]["priority_levels"] == 2
    answers = [client.infer("mlp", picture(triton, 1), priority=priority).as_numpy("y") for priority in (0, 1, 2, 7)]
    assert all(np.allclose(answer, answers[0]) for answer in answers)


def test_the_asyncio_client(http, nodes):
    async def run():
        async with triton_aio.InferenceServerClient(http) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("add"))["name"] == "add"
            for packed in (None, "gzip", "deflate"):
                inputs, outputs = echo(triton_aio, "binary", "binary")
                answer = await client.infer(
                    "echo",
                    inputs,
                    outputs=outputs,
                    request_compression_algorithm=packed,
                    response_compression_algorithm=packed,
                )
                check(answer)

    asyncio.run(run())


def test_classification(client):
    wanted = [triton.InferRequestedOutput("out_fp32", binary_data=False, class_count=2)]
    inputs, _ = echo(triton, "binary", "binary")
    texts = [str(text) for text in client.infer("echo", inputs, outputs=wanted).as_numpy("out_fp32").reshape(-1)]
    # The largest of -1.5, 0.1, 3.4e38, with their places.
    assert [text.split(":")[1] for text in texts] == ["2", "1"]


def test_classes_have_their_labels(client):
    picture = triton.InferInput("image", [2, 3, 32, 32], "FP32")
    picture.set_data_from_numpy(np.tile(np.array([0, 1, 0], np.float32).reshape(1, 3, 1, 1), (2, 1, 32, 32)))
    for binary in (True, False):
        wanted = [triton.InferRequestedOutput("logits", binary_data=binary, class_count=1)]
        texts = client.infer("color", [picture], outputs=wanted).as_numpy("logits")
        assert texts.shape == (2, 1) and all(str(text).strip("b'").endswith(":1:green") for text in texts.reshape(-1))


def test_outputs_come_in_the_order_they_are_asked_for(client):
    inputs, outputs = echo(triton, "binary", "binary")
    answer = client.infer("echo", inputs, outputs=outputs[::-1])
    assert [output["name"] for output in answer.get_response()["outputs"]] == [o.name() for o in outputs[::-1]]
    check(answer)


def test_parameters_of_a_request(client):
    for extra in (
        {"timeout": 5_000_000},
        {"priority": 1},
        {"sequence_id": 7, "sequence_start": True, "sequence_end": True},
        {"sequence_id": "part-7", "sequence_start": True},
        {"parameters": {"line": "press", "shift": 2, "night": False}},
    ):
        assert client.infer("add", addends(1.0, 2.0), **extra).as_numpy("sum").item() == 3.0
    with pytest.raises(InferenceServerException) as late:
        client.infer("add", addends(1.0, 2.0), timeout=1)
    assert late.value.status() == "504"


@pytest.mark.parametrize("sequence", [7, "part-7"])
def test_a_sequence_has_its_state(client, sequence):
    assert "sequence_batching" in client.get_model_config("accumulate")
    assert [tensor["name"] for tensor in client.get_model_metadata("accumulate")["inputs"]] == ["x"]
    other = f"other than {sequence}"
    total(client, 100.0, sequence_id=other, sequence_start=True)
    totals = [
        total(client, x, sequence_id=sequence, sequence_start=x == 1.0, sequence_end=x == 4.0)
        for x in (1.0, 2.0, 3.0, 4.0)
    ]
    assert totals == [1.0, 3.0, 6.0, 10.0]
    assert total(client, 1.0, sequence_id=other, sequence_end=True) == 101.0
    with pytest.raises(InferenceServerException, match="sequence") as lost:
        total(client, 5.0, sequence_id=sequence)
    assert lost.value.status() == "400"


def total(client, x, **parameters):
    tensor = triton.InferInput("x", [1], "FP32")
    tensor.set_data_from_numpy(np.array([x], np.float32))
    return client.infer("accumulate", [tensor], **parameters).as_numpy("total").item()


def test_a_name_and_password_are_no_key(client):
    client.register_plugin(triton_auth.BasicAuth("somebody", "something"))
    assert client.is_model_ready("add") and add(client, 1.0, 2.0) == 3.0


def test_nothing_is_a_tensor_too(client):
    nothing = np.zeros((0,), np.float32)
    inputs = [triton.InferInput(name, [0], "FP32") for name in ("a", "b")]
    for tensor in inputs:
        tensor.set_data_from_numpy(nothing)
    assert client.infer("add", inputs).as_numpy("sum").shape == (0,)


def test_what_is_wrong_is_said(client):
    with pytest.raises(InferenceServerException, match="Request for unknown model"):
        client.infer("nope", addends(1.0, 2.0))
    with pytest.raises(InferenceServerException, match="sum"):
        client.infer("add", addends(1.0, 2.0), outputs=[triton.InferRequestedOutput("product")])
    with pytest.raises(InferenceServerException) as refused:
        client.infer("add", addends(1.0, 2.0)[:1])
    assert refused.value.status() == "400"


def test_the_repository(floor, http, nodes):
    key = {"X-Api-Key": floor.key("--name", f"loader-{nodes}", "--method", "models.*")}
    with triton.InferenceServerClient(http) as client:
        index = {row["name"]: row for row in client.get_model_repository_index()}
        assert index["add"]["state"] == "READY" and index["add"]["version"] == "1"
        with pytest.raises(InferenceServerException):
            client.unload_model("echo-bf16")
        # Whoever asked for it finds it done.
        for _ in range(3):
            client.unload_model("echo-bf16", headers=key)
            assert not client.is_model_ready("echo-bf16")
            client.load_model("echo-bf16", headers=key)
            assert client.is_model_ready("echo-bf16")
            test_bf16_goes_as_binary(client)


def addends(a, b):
    inputs = []
    for name, value in [("a", a), ("b", b)]:
        tensor = triton.InferInput(name, [1], "FP32")
        tensor.set_data_from_numpy(np.array([value], np.float32))
        inputs.append(tensor)
    return inputs


def add(client, a, b):
    return client.infer("add", addends(a, b)).as_numpy("sum").item()
