"""The tensors of the model `echo`, which gives back every datatype as it came."""

import numpy as np

VALUES = {
    "BOOL": np.array([True, False, True]),
    "UINT8": np.array([0, 1, 255], np.uint8),
    "UINT16": np.array([0, 1, 2**16 - 1], np.uint16),
    "UINT32": np.array([0, 1, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 2**53 + 1, 2**64 - 1], np.uint64),
    "INT8": np.array([-128, 0, 127], np.int8),
    "INT16": np.array([-(2**15), 0, 2**15 - 1], np.int16),
    "INT32": np.array([-(2**31), 0, 2**31 - 1], np.int32),
    "INT64": np.array([-(2**63), 2**53 + 1, 2**63 - 1], np.int64),
    "FP16": np.array([-1.5, 0, 65504], np.float16),
    "FP32": np.array([-1.5, 0.1, 3.4e38], np.float32),
    "FP64": np.array([-1.5, 0.1, 1.7e308], np.float64),
    "BYTES": np.array([b"weld", "Mörtel".encode(), b""], np.object_),
}
# These have no form in JSON.
ONLY_BINARY = {"FP16"}


def same(got, wanted):
    """Equal to the last bit."""
    if wanted.dtype == np.object_:
        texts = [text.encode() if isinstance(text, str) else text for text in got.tolist()]
        return texts == wanted.tolist()
    return got.dtype == wanted.dtype and got.shape == wanted.shape and got.tobytes() == wanted.tobytes()
