"""What is shown to people works: the Python blocks of docs/http-api.md, and the bodies that /docs begins with."""

import contextlib
import io
import json
import re
import urllib.request

import pytest
from floor import ROOT

DOCUMENT = (ROOT / "docs/http-api.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", DOCUMENT, re.DOTALL)


def test_there_are_blocks():
    assert len(BLOCKS) >= 3 and all(shown for _, shown in BLOCKS)


@pytest.mark.parametrize("code,shown", BLOCKS, ids=lambda text: text.splitlines()[0] if text else "")
def test_a_block_prints_what_is_below_it(http, code, shown):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code.replace("localhost:8080", http), {})
    assert printed.getvalue() == shown


def test_what_the_page_sends_at_first_is_answered(http, nodes):
    def ask(path, body=None):
        with urllib.request.urlopen(f"http://{http}{path}", body and json.dumps(body).encode(), timeout=20) as answer:
            return json.load(answer)

    document = ask("/openapi.json")
    sent = 0
    for path in ("/v2/models/{model}/infer", "/v2/models/{model}/generate", "/v1/embeddings", "/rpc"):
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        for example in schema["examples"]:
            assert "error" not in ask(path.format(model="add"), example)
            sent += 1
    assert sent >= 4
