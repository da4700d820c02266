"""Models that take what people have, an image or a text, and the settings by which a node feeds them.

Neither is trained: `color` measures, `embed` looks up. Both are small enough to reckon their answers by hand.
"""

import json

import numpy as np

from . import parts, png, surface
from .graph import Graph, tensor
from .places import SAMPLES, SERVED, Model, model_file, write, write_json

COLOR, EMBED = "color", "embed"

COLOURS = {"red": (200, 40, 30), "green": (40, 170, 60), "blue": (30, 60, 190)}
COLOR_SIZE = 32
# Turns a difference of shares of light into logits that softmax makes clear answers of.
GAIN = 12

# Words of the factory by what they are about; words of one line lie close together.
TOPICS = {
    "surface": "scratch scratches scratched crack cracked cracks dent dented stain stained rust rough burr surface",
    "bearing": "bearing bearings vibration vibrates noise loud shaft spindle motor hot temperature oil grease",
    "weld": "weld welds welded welding seam pore pores spatter joint torch wire arc gap",
    "supply": "order orders delivery late pallet stock box boxes lot label supplier missing empty",
    "good": "good ok clean smooth fine perfect passed new quiet full",
}
FILLERS = "the a an is on of in and to at has with no not part line station press plate after before very"
DIMENSIONS = 16

TEXTS = [
    "Scratch on the plate",
    "the surface is cracked and dented",
    "bearing vibrates, motor is hot",
    "Loud noise at the spindle",
    "pores in the weld seam",
    "late delivery of a lot",
    "clean and smooth",
    "Zeppelin",
]

SETTINGS = {
    surface.NAME: f"""\
# surface-defects takes a picture as a camera gives it and answers with a class and a word.

[predict]
channels = "gray"
labels = {json.dumps(parts.CLASSES)}

[predict.verdict]
ok = ["ok"]
""",
    COLOR: f"""\
# color says which of three colours a picture has most of. A line that makes green parts wants green.

[predict]
size = [{COLOR_SIZE}, {COLOR_SIZE}]
resize = "stretch"
channels = "rgb"
softmax = true
labels = {json.dumps(list(COLOURS))}

[predict.verdict]
ok = ["green"]
min_score = 0.5
""",
    EMBED: """\
# embed turns a text about the factory into a vector; texts about one thing lie close together.

[embed]
tokenizer = "tokenizer.json"
pooling = "mean"
normalize = true
""",
}


def make():
    for name, text in SETTINGS.items():
        write(SERVED / name / "model.toml", text)
    write(model_file(SERVED, COLOR), color())
    write(model_file(SERVED, EMBED), embed())
    write(SERVED / EMBED / "tokenizer.json", tokenizer())


def color():
    graph = Graph()
    light = graph.node("ReduceMean", ["image"], "light", axes=[2, 3], keepdims=0)
    graph.node("Mul", [light, graph.constant("gain", np.float32(GAIN))], "logits")
    return graph.model(
        "color",
        [tensor("image", "FLOAT", ["batch", 3, COLOR_SIZE, COLOR_SIZE])],
        [tensor("logits", "FLOAT", ["batch", len(COLOURS)])],
        "Red, green, blue 0..1 in; logits of " + ", ".join(COLOURS) + " out.",
    )


def vocabulary():
    """Token ids by word. The first two are those of tokenizers: filling, and what is no word of ours."""
    words = ["[PAD]", "[UNK]", ",", "."] + FILLERS.split() + " ".join(TOPICS.values()).split()
    return {word: index for index, word in enumerate(dict.fromkeys(words))}


def table():
    """A vector for each token: its topic's direction and a little of its own."""
    vectors = np.zeros((len(vocabulary()), DIMENSIONS), np.float32)
    for word, index in vocabulary().items():
        vectors[index] = np.random.default_rng(index).normal(0, 0.05, DIMENSIONS)
        for at, words in enumerate(TOPICS.values()):
            if word in words.split():
                vectors[index, at] += 1
    vectors[0] = 0
    return np.round(vectors, 4).astype(np.float32)


def embed():
    graph = Graph()
    found = graph.node("Gather", [graph.constant("table", table()), "input_ids"], "found", axis=0)
    mask = graph.node("Cast", ["attention_mask"], "mask", to=1)  # 1 is FLOAT.
    mask = graph.node("Unsqueeze", [mask, graph.constant("last", np.array([2]))], "mask_each")
    graph.node("Mul", [found, mask], "last_hidden_state")
    return graph.model(
        "embed",
        [tensor(name, "INT64", ["batch", "tokens"]) for name in ("input_ids", "attention_mask")],
        [tensor("last_hidden_state", "FLOAT", ["batch", "tokens", DIMENSIONS])],
        "Token ids in; a vector for each token out.",
    )


def tokenizer():
    """As the library `tokenizers` reads it: lower case, words and punctuation apart, a number for each."""
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": word, **special} for index, word in enumerate(["[PAD]", "[UNK]"])],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary(), "unk_token": "[UNK]"},
    }
    return json.dumps(document, indent=1) + "\n"


def tokens(text):
    """What the tokenizer makes of our sample texts."""
    words = text.lower().replace(",", " , ").split()
    return [vocabulary().get(word, 1) for word in words]


def make_samples():
    pictures = []
    for name, picture in drawn().items():
        write(SAMPLES / COLOR / f"{name}.png", png.encode(picture))
        pictures.append({"file": f"{name}.png", **judged(picture)})
    write_json(SAMPLES / COLOR / "labels.json", {"classes": list(COLOURS)}, "images", pictures)
    write_json(SAMPLES / "embed.json", {"dimensions": DIMENSIONS}, "texts", embedded(TEXTS))


def drawn():
    """A plain part of each colour, and a green one with a red mark, under uneven light."""
    light = np.linspace(0.8, 1.1, COLOR_SIZE)[:, None, None]
    plain = {
        name: (np.array(colour)[None, None] * light * np.ones((1, COLOR_SIZE, 1))).clip(0, 255).astype(np.uint8)
        for name, colour in COLOURS.items()
    }
    marked = plain["green"].copy()
    marked[10:16, 8:24] = COLOURS["red"]
    return {**plain, "green-marked": marked}


def judged(picture):
    """What `color` says, and the word."""
    image = (picture.astype(np.float32) / 255).transpose(2, 0, 1)[None]
    logits = Model(model_file(SERVED, COLOR)).run(image=image)["logits"][0].astype(float)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    best = int(shares.argmax())
    label = list(COLOURS)[best]
    verdict = "OK" if label == "green" and 0.5 <= shares[best] else "NOK"
    return {"label": label, "score": round(float(shares[best]), 4), "verdict": verdict}


def embedded(texts):
    model = Model(model_file(SERVED, EMBED))
    rows = []
    for text in texts:
        ids = np.array([tokens(text)])
        vector = model.run(input_ids=ids, attention_mask=np.ones_like(ids))["last_hidden_state"][0].mean(0)
        vector = vector / np.linalg.norm(vector)
        rows.append({"text": text, "tokens": ids.shape[1], "embedding": [round(float(value), 5) for value in vector]})
    return rows
