"""8-bit PNG, grey or red, green, blue, written and read with nothing but zlib.

Reads only what `encode` writes: one IDAT chunk, no row filters.
"""

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode(image):
    """Of [height, width], or [height, width, 3]."""
    height, width = image.shape[:2]
    colour = 0 if image.ndim == 2 else 2
    rows = b"".join(b"\0" + row.tobytes() for row in image)  # 0: the row is stored as it is.
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def decode(data):
    at, chunks = len(SIGNATURE), {}
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunks[kind] = data[at + 8 : at + 8 + length]
        at += length + 12
    width, height, _, colour = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)[:, 1:]
    return rows.reshape(height, width, 3) if colour == 2 else rows


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
