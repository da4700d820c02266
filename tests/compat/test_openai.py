"""The openai package: its client needs a key, whatever it is, and asks for base64 by itself."""

import asyncio

import openai
import pytest


@pytest.fixture
def client(http):
    with openai.OpenAI(base_url=f"http://{http}/v1", api_key="whatever", max_retries=0) as client:
        yield client


def test_the_models_are_listed(client):
    assert {"add", "embed"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("embed").object == "model"
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("nope")
    assert missing.value.code == "model_not_found"


@pytest.mark.parametrize("form", [openai.NOT_GIVEN, "float", "base64"])
def test_texts_become_vectors(client, form):
    texts = ["bearing hot", "weld cold"]
    answer = client.embeddings.create(model="embed", input=texts, encoding_format=form)
    assert [row.index for row in answer.data] == [0, 1]
    assert answer.usage.prompt_tokens > 0
    one = client.embeddings.create(model="embed", input="bearing hot", encoding_format="float").data[0].embedding
    if form == "base64":
        import base64
        import struct

        bytes_ = base64.b64decode(answer.data[0].embedding)
        assert list(struct.unpack(f"<{len(bytes_) // 4}f", bytes_)) == pytest.approx(one, abs=1e-6)
    else:
        assert answer.data[0].embedding == pytest.approx(one, abs=1e-6)


def test_tokens_become_vectors_too(client):
    assert len(client.embeddings.create(model="embed", input=[1, 2, 3]).data) == 1
    answer = client.embeddings.create(model="embed", input=[[1, 2, 3], [4]], dimensions=4)
    assert [len(row.embedding) for row in answer.data] == [4, 4] and answer.usage.prompt_tokens == 4


def test_the_async_client(http, nodes):
    async def run():
        async with openai.AsyncOpenAI(base_url=f"http://{http}/v1", api_key="whatever", max_retries=0) as client:
            calls = [client.embeddings.create(model="embed", input=f"bearing {at}") for at in range(10)]
            assert all(len(answer.data) == 1 for answer in await asyncio.gather(*calls))
            assert "embed" in [model.id async for model in client.models.list()]

    asyncio.run(run())


def test_keys_have_their_errors(floor, client, nodes):
    if nodes == 3:  # Later the door has been asked with too many keys that it did not know yet.
        unknown = client.with_options(api_key="lsk_0123456789abcdef_" + "A" * 43)
        with pytest.raises(openai.AuthenticationError) as refused:
            unknown.models.list()
        assert refused.value.code == "invalid_api_key"
    scoped = client.with_options(api_key=floor.key("--name", f"texts-{nodes}", "--model", "embed"))
    assert [model.id for model in scoped.models.list()] == ["embed"]
    with pytest.raises(openai.PermissionDeniedError):
        scoped.models.retrieve("add")


def test_what_is_wrong_is_said(client):
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="nope", input="text")
    with pytest.raises(openai.BadRequestError, match="embed"):
        client.embeddings.create(model="add", input="text")
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="embed", input=[])
