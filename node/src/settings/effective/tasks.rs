//! The rows of what a model does beyond its own tensors.

use super::{
    super::{Embed, Predict, Settings, Verdict},
    Row, Section, float, floats, open, row, written,
};

pub(super) fn sections(settings: &Settings) -> Vec<Section> {
    let (no_predict, no_embed, no_verdict) = (Predict::default(), Embed::default(), Verdict::default());
    let predict = settings.predict.as_ref();
    let verdict = predict.and_then(|predict| predict.verdict.as_ref());
    let embed = settings.embed.as_ref();
    vec![
        Section {
            name: "predict",
            is_there: predict.is_some(),
            about: "An image in, labels or boxes out.",
            rows: self::predict(predict.unwrap_or(&no_predict)),
        },
        Section {
            name: "predict.verdict",
            is_there: verdict.is_some(),
            about: "How the answer becomes one word: the best label decides; with boxes, any box does.",
            rows: self::verdict(verdict.unwrap_or(&no_verdict)),
        },
        Section {
            name: "embed",
            is_there: embed.is_some(),
            about: "Texts in, vectors out.",
            rows: self::embed(embed.unwrap_or(&no_embed)),
        },
    ]
}

/// Its rows in the order of the work: picture, elements, scores, boxes.
fn predict(predict: &Predict) -> Vec<Row> {
    let Predict {
        input,
        size,
        resize,
        resize_short,
        pad,
        filter,
        layout,
        channels,
        scale,
        mean,
        std,
        output: _,
        labels: _,
        labels_file: _,
        softmax: _,
        top_k: _,
        threshold: _,
        boxes: _,
        boxes_output: _,
        scores_output: _,
        classes_output: _,
        coordinates: _,
        nms: _,
        max_boxes: _,
        verdict: _,
    } = predict;
    let mut rows = vec![
        open("input", written(input), "the only one", "\"image\"", "The input that takes the image."),
        open(
            "size",
            written(size),
            "from the model, where fixed",
            "[224, 224]",
            "[width, height] of the input.",
        ),
        row("resize", resize, "\"stretch\", \"fit\" (whole, with bars), \"crop\" (filling)."),
        open(
            "resize_short",
            written(resize_short),
            "the shortest that fills size",
            "256",
            "With \"crop\": length of the short side before size is cut out of the middle.",
        ),
        open(
            "pad",
            written(pad),
            "[114, 114, 114]",
            "[0, 0, 0]",
            "With \"fit\": the bars' colour, red, green, blue.",
        ),
        row("filter", filter, "\"nearest\", \"bilinear\", \"bicubic\"."),
        open(
            "layout",
            written(layout),
            "from the model's shape, else \"nchw\"",
            "\"nhwc\"",
            "Order of the input's dimensions.",
        ),
        open(
            "channels",
            written(channels),
            "\"gray\" for one channel, else \"rgb\"",
            "\"bgr\"",
            "Which channels, in which order.",
        ),
        open(
            "scale",
            scale.and_then(float),
            "1/255",
            "1.0",
            "Element = (pixel 0..255 x scale - mean) / std.",
        ),
        open(
            "mean",
            mean.as_deref().and_then(floats),
            "[0]",
            "[0.485, 0.456, 0.406]",
            "One number, or one for each channel.",
        ),
        open("std", std.as_deref().and_then(floats), "[1]", "[0.229, 0.224, 0.225]", "Likewise; not 0."),
    ];
    rows.extend(answers(predict));
    rows
}

/// The rows of what a model's outputs are.
fn answers(predict: &Predict) -> Vec<Row> {
    vec![
        open(
            "output",
            written(&predict.output),
            "the only one",
            "\"scores\"",
            "The output of scores, or of boxes = \"yolo\".",
        ),
        row("labels", &predict.labels, "The labels, in the order of the scores."),
        open(
            "labels_file",
            written(&predict.labels_file),
            "none",
            "\"labels.txt\"",
            "The same as a file, one a line.",
        ),
        row("softmax", predict.softmax, "Whether the output holds logits."),
        row("top_k", predict.top_k, "Most labels in an answer, 1 to 1000."),
        open(
            "threshold",
            predict.threshold.and_then(float),
            "none; 0.25 for boxes",
            "0.5",
            "What scores less is left out.",
        ),
        open(
            "boxes",
            written(predict.boxes),
            "none: the model classifies",
            "\"yolo\"",
            "\"yolo\": one output; \"xyxy\": separate outputs.",
        ),
        open(
            "boxes_output",
            written(&predict.boxes_output),
            "needed for xyxy",
            "\"boxes\"",
            "Corners [n, 4]: left, top, right, bottom.",
        ),
        open(
            "scores_output",
            written(&predict.scores_output),
            "needed for xyxy",
            "\"scores\"",
            "[n], or [n, labels].",
        ),
        open(
            "classes_output",
            written(&predict.classes_output),
            "the best of the scores",
            "\"labels\"",
            "Indices of labels [n].",
        ),
        row("coordinates", predict.coordinates, "Boxes in \"pixels\" of the input, or \"relative\" to it."),
        open(
            "nms",
            predict.nms.and_then(float),
            "0.45 for yolo; none for xyxy",
            "0.5",
            "Of two boxes of one label that share more of their union, the better one stays.",
        ),
        row("max_boxes", predict.max_boxes, "Most boxes in an answer, 1 to 1000."),
    ]
}

fn verdict(Verdict { ok, min_score, pass, fail }: &Verdict) -> Vec<Row> {
    vec![
        open(
            "ok",
            Some(ok).filter(|ok| !ok.is_empty()).and_then(written),
            "needed, but for boxes",
            "[\"good\"]",
            "The labels that pass.",
        ),
        open(
            "min_score",
            min_score.and_then(float),
            "none; threshold for boxes",
            "0.8",
            "Score that the best label needs to pass; with boxes, score from which a box counts.",
        ),
        row("pass", pass, "The word for a good part."),
        row("fail", fail, "The word for all others."),
    ]
}

fn embed(Embed { tokenizer, max_tokens, pooling, normalize, output, prefix }: &Embed) -> Vec<Row> {
    vec![
        row("tokenizer", tokenizer, "The tokenizer, in the form of Hugging Face's tokenizers."),
        open(
            "max_tokens",
            written(max_tokens),
            "the model's fixed length, else the tokenizer's, else 512",
            "256",
            "Longer texts are cut.",
        ),
        open(
            "pooling",
            written(pooling),
            "\"mean\" where the output is [texts, tokens, n]",
            "\"cls\"",
            "\"mean\", \"cls\" (the first), \"max\"; \"none\" for an output [texts, n].",
        ),
        row("normalize", normalize, "Whether vectors are brought to length 1."),
        open(
            "output",
            written(output),
            "the only one, else sentence_embedding, else last_hidden_state",
            "\"vectors\"",
            "The output of vectors.",
        ),
        row("prefix", prefix, "Put before every text."),
    ]
}
