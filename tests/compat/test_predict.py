"""An image in, a word out: what an engineer with curl does."""

import json
import struct
import subprocess
import zlib

import pytest


def png(colour):
    """A picture of 32 by 32 in one colour."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + bytes(colour) * 32 for _ in range(32))
    head = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("colour,label,verdict", [((0, 255, 0), "green", "OK"), ((255, 0, 0), "red", "NOK")])
def test_curl_gets_a_verdict(http, tmp_path, colour, label, verdict):
    picture = tmp_path / "part.png"
    picture.write_bytes(png(colour))
    url = f"http://{http}/v2/models/color/predict"
    for arguments in (
        ["-F", f"image=@{picture}"],
        ["-H", "Content-Type: image/png", "--data-binary", f"@{picture}"],
    ):
        answer = json.loads(curl(url, *arguments))
        assert answer["verdict"] == verdict and answer["labels"][0]["label"] == label
        assert curl(url, "-H", "Accept: text/plain", *arguments).strip() == verdict


def curl(*arguments):
    return subprocess.run(["curl", "-sS", "--fail", *arguments], check=True, capture_output=True, text=True).stdout
