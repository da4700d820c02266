"""Every Python block of docs/http-api.md runs, and prints what the block below it shows."""

import contextlib
import io
import re

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
