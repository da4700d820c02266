"""Asks whether the committed models still do what README.md and accuracy.json say of them."""

import threading

import numpy as np
import onnx
import onnxruntime

from . import parts, plain, png, surface, tasks, vibration
from .graph import IR_VERSION, OPSET
from .places import ACCURACY, README, SAMPLES, SERVED, TESTED, Model, classify, judge, model_file, read_json

# What we promise, whatever a training run brought.
HELD_OUT_MIN = 0.95
PICTURES_CORRECT_MIN = 97
BYTES_MAX = 1_000_000

# The held-out sets are simulated anew. Another processor may round a pixel the other way, and with it an answer.
HELD_OUT_DRIFT_MAX = 0.002

INTERFACES = {
    surface.NAME: (
        {"image": ("tensor(float)", ["batch", 1, 64, 64])},
        {"probabilities": ("tensor(float)", ["batch", 5])},
    ),
    vibration.NAME: (
        {"features": ("tensor(float)", ["batch", 16])},
        {"score": ("tensor(float)", ["batch", 1]), "anomalous": ("tensor(bool)", ["batch", 1])},
    ),
    "add": (
        {"a": ("tensor(float)", ["n"]), "b": ("tensor(float)", ["n"])},
        {"sum": ("tensor(float)", ["n"])},
    ),
    tasks.COLOR: (
        {"image": ("tensor(float)", ["batch", 3, tasks.COLOR_SIZE, tasks.COLOR_SIZE])},
        {"logits": ("tensor(float)", ["batch", 3])},
    ),
    tasks.EMBED: (
        {name: ("tensor(int64)", ["batch", "tokens"]) for name in ("input_ids", "attention_mask")},
        {"last_hidden_state": ("tensor(float)", ["batch", "tokens", tasks.DIMENSIONS])},
    ),
    **{
        name: (
            {"a": ("tensor(float)", ["n"]), "b": ("tensor(float)", ["n"]), "rounds": ("tensor(int64)", [1])},
            {"sum": ("tensor(float)", ["n"])},
        )
        for name in ("slow-add", "slow-add-twice", "slow-add-fourfold")
    },
    **{
        name: (
            {"a": ("tensor(float)", ["n"]), "b": ("tensor(float)", ["n"])},
            {"sum": ("tensor(float)", ["n"])},
        )
        for name in ("add-fails", "add-hangs")
    },
    "accumulate": (
        {"x": ("tensor(float)", ["n"]), "sum": ("tensor(float)", [1])},
        {"total": ("tensor(float)", [1]), "sum_next": ("tensor(float)", [1])},
    ),
    "mlp": ({"x": ("tensor(float)", ["batch", 784])}, {"y": ("tensor(float)", ["batch", 10])}),
}


def check():
    """The list of what does not hold; empty when all is well."""
    faults = []

    def hold(promise, holds):
        print("ok  " if holds else "BAD ", promise)
        if not holds:
            faults.append(promise)

    check_files(hold)
    check_surface(hold)
    check_vibration(hold)
    check_plain(hold)
    check_tasks(hold)
    return faults


def check_files(hold):
    served = [surface.NAME, vibration.NAME, "add", tasks.COLOR, tasks.EMBED]
    slow = ["slow-add", "slow-add-twice", "slow-add-fourfold"]
    for root, names in (SERVED, served), (TESTED, [*slow, "add-fails", "add-hangs", "echo", "accumulate", "mlp"]):
        for name in names:
            path = model_file(root, name)
            model = onnx.load(path)
            versions = (model.ir_version, [opset.version for opset in model.opset_import])
            hold(f"{name}: opset {OPSET}, IR version {IR_VERSION}", versions == (IR_VERSION, [OPSET]))
            hold(f"{name}: {path.stat().st_size} bytes", path.stat().st_size < BYTES_MAX)
            if name in INTERFACES:
                hold(f"{name}: interface", Model(path).interface() == INTERFACES[name])


def check_surface(hold):
    folder = SAMPLES / surface.NAME
    sheet = read_json(folder / "labels.json")
    images = sheet["images"]
    raw = np.frombuffer((folder / "images.u8").read_bytes(), np.uint8).reshape(len(images), parts.SIZE, parts.SIZE)
    same = all((png.decode((folder / i["file"]).read_bytes()) == bytes_).all() for i, bytes_ in zip(images, raw))
    hold(
        f"{surface.NAME}: images.u8 holds the PNG files' pixels",
        same and len(images) == len(list(folder.glob("*.png"))),
    )

    model = Model(model_file(SERVED, surface.NAME))
    answers = classify(model, raw)
    labels = np.array([parts.CLASSES.index(image["label"]) for image in images])
    expected = np.array([parts.CLASSES.index(image["expected"]) for image in images])
    hold(f"{surface.NAME}: every sample gets its expected answer", (answers == expected).all())
    hold(
        f"{surface.NAME}: at least {PICTURES_CORRECT_MIN} samples right",
        PICTURES_CORRECT_MIN <= (answers == labels).sum(),
    )
    pictures, truth = surface.held_out()
    check_accuracy(hold, surface.NAME, answers == labels, classify(model, pictures) == truth)


def check_vibration(hold):
    rows = read_json(SAMPLES / vibration.NAME / "rows.json")["rows"]
    model = Model(model_file(SERVED, vibration.NAME))
    answers = judge(model, np.array([row["features"] for row in rows], np.float32))
    expected = np.array([row["expected"] for row in rows])
    hold(f"{vibration.NAME}: every sample gets its expected answer", (answers == expected).all())
    features, faulty = vibration.held_out()
    truth = np.array([row["anomalous"] for row in rows])
    check_accuracy(hold, vibration.NAME, answers == truth, judge(model, features) == faulty)


def check_tasks(hold):
    for name, text in tasks.SETTINGS.items():
        hold(f"{name}: model.toml as it is made", (SERVED / name / "model.toml").read_text() == text)
    for image in read_json(SAMPLES / tasks.COLOR / "labels.json")["images"]:
        picture = png.decode((SAMPLES / tasks.COLOR / image["file"]).read_bytes())
        hold(f"{tasks.COLOR}: {image['file']}", {"file": image["file"], **tasks.judged(picture)} == image)
    rows = read_json(SAMPLES / "embed.json")["texts"]
    answers = tasks.embedded([row["text"] for row in rows])
    for row, answer in zip(rows, answers):
        same = np.allclose(row["embedding"], answer["embedding"], atol=2e-5) and row["tokens"] == answer["tokens"]
        hold(f"{tasks.EMBED}: {row['text']!r}", same)
    vectors = np.array([row["embedding"] for row in rows])
    # Scratches are nearer to cracks than to bearings, and bearings to a noise than to welds.
    hold(f"{tasks.EMBED}: what is alike is near", vectors[0] @ vectors[1] > vectors[0] @ vectors[2])
    hold(f"{tasks.EMBED}: what is alike is near, again", vectors[2] @ vectors[3] > vectors[2] @ vectors[4])


def check_accuracy(hold, name, samples, held_out):
    said = read_json(ACCURACY)[name]
    hold(
        f"{name}: {samples.sum()} of {len(samples)} samples right, as stated",
        (len(samples), samples.sum()) == (said["samples"], said["samples_correct"]),
    )
    share = said["held_out_correct"] / said["held_out"]
    hold(
        f"{name}: {held_out.mean():.2%} of {len(held_out)} held-out right, {share:.2%} stated",
        len(held_out) == said["held_out"] and abs(held_out.mean() - share) <= HELD_OUT_DRIFT_MAX,
    )
    hold(f"{name}: at least {HELD_OUT_MIN:.0%} held-out right", HELD_OUT_MIN <= min(share, held_out.mean()))
    line = f"| `{name}` | {share:.1%} of {said['held_out']} | {said['samples_correct']} of {said['samples']} |"
    hold(f"README.md says {line}", line in README.read_text())


def check_plain(hold):
    add = Model(model_file(SERVED, "add"))
    slow_adds = {name: Model(model_file(TESTED, name)) for name in ("slow-add", "slow-add-twice", "slow-add-fourfold")}
    for case in read_json(SAMPLES / "add.json")["cases"]:
        a, b = np.array(case["a"], np.float32), np.array(case["b"], np.float32)
        hold(f"add: {case['a']} + {case['b']}", add.run(a=a, b=b)["sum"].tolist() == case["sum"])
        for name, slow_add in slow_adds.items():
            for rounds in 0, 100:
                answer = slow_add.run(a=a, b=b, rounds=np.array([rounds]))["sum"]
                hold(f"{name}: the same after {rounds} rounds", answer.tolist() == case["sum"])

    check_faulty(hold)
    echo = Model(model_file(TESTED, "echo"))
    hold("echo: one tensor for each datatype", len(echo.interface()[0]) == len(plain.DATATYPES))
    given = {f"in_{name.lower()}": values(name) for name in plain.DATATYPES}
    answer = echo.run(**given)
    for name in plain.DATATYPES:
        sent, got = given[f"in_{name.lower()}"], answer[f"out_{name.lower()}"]
        hold(f"echo: {name}", got.dtype == sent.dtype and got.tolist() == sent.tolist())

    try:
        Model(model_file(TESTED, "broken"))
        hold("broken: refused", False)
    except Exception as refusal:  # ONNX Runtime's own type for this has no public name.
        hold("broken: refused", "INVALID_PROTOBUF" in str(refusal))


def check_faulty(hold):
    """They do well on all that a node makes up by itself, numbers between 0 and 1, and on nothing else."""
    made_up = {"a": np.float32([0.25, 1, 0]), "b": np.float32([0.5, 1, 0])}
    real = {"a": np.float32([3]), "b": np.float32([4])}
    for name in "add-fails", "add-hangs":
        answer = Model(model_file(TESTED, name)).run(**made_up)["sum"]
        hold(f"{name}: adds what is made up", answer.tolist() == [0.75, 2, 0])
    try:
        Model(model_file(TESTED, "add-fails")).run(**real)
        hold("add-fails: fails", False)
    except Exception as refusal:  # As above.
        hold("add-fails: fails", "out of data bounds" in str(refusal))

    hangs = Model(model_file(TESTED, "add-hangs"))
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    stop = threading.Timer(0.5, lambda: setattr(options, "terminate", True))
    stop.start()
    try:
        hangs.session.run(None, real, options)
        hold("add-hangs: works until it is stopped", False)
    except Exception as refusal:  # As above.
        hold("add-hangs: works until it is stopped", "terminate" in str(refusal))
    stop.cancel()


def values(datatype):
    """Three values of an Open Inference Protocol datatype, its extremes among them."""
    if datatype == "BOOL":
        return np.array([True, False, True])
    if datatype == "BYTES":
        return np.array(["", "weld", "Prüfstand 7"], object)
    if datatype.startswith("FP"):
        kind = np.dtype(f"float{datatype[2:]}")
        return np.array([-1.5, 0, np.finfo(kind).max], kind)
    kind = np.dtype(datatype.lower())
    return np.array([np.iinfo(kind).min, 1, np.iinfo(kind).max], kind)
