//! What a model's settings file says: `<models>/<name>/model.toml`, for `<models>/<name>.onnx` the file
//! `<models>/<name>.toml`. Without one, a model takes its own tensors and gives its own tensors. Who comes from Triton
//! may leave `<models>/<name>/config.pbtxt` where it is: [`pbtxt`] reads what concerns ONNX Runtime.
//!
//! The types here are the file, key by key, with their defaults. [`file`] finds and reads it, [`check`] looks whether it
//! makes sense, [`effective`] writes it back; what its tasks mean for a model is decided where the model is known, in
//! [`task`](crate::task). A file that is wrong in one key is not used in part:
//! the model does not serve, and its reason names the file, the line and the key.
//!
//! Paths in the file (`labels_file`, `tokenizer`) are relative, and looked for beside `model.onnx` first, so that each
//! version can have its own, then beside the settings file.

mod check;
mod declared;
mod effective;
mod file;
mod pbtxt;
mod serving;

use serde::{Deserialize, Serialize};

pub(crate) use declared::Declared;
pub(crate) use effective::{effective, sample};
pub(crate) use file::{Folder, Source, nearest};
pub(crate) use serving::{
    Batching, BatchingMode, Cache, Execution, Instances, ModelLimits, Optimization, QueueSettings, Sequence,
    Span, State, Versions, VersionsWord, Warmup,
};

/// A settings file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Which versions serve.
    pub(crate) versions: Versions,
    /// What runs at once.
    pub(crate) instances: Instances,
    /// Whether and how requests are joined.
    pub(crate) batching: Batching,
    /// Who waits, and for how long.
    pub(crate) queue: QueueSettings,
    /// What computes.
    pub(crate) execution: Execution,
    /// What is refused before it runs.
    pub(crate) limits: ModelLimits,
    /// State between the requests of a sequence.
    pub(crate) sequence: Option<Sequence>,
    /// Answers that are given again without a run.
    pub(crate) cache: Cache,
    /// What is run at load.
    pub(crate) warmup: Warmup,
    /// How an image becomes the model's input, and its output an answer.
    pub(crate) predict: Option<Predict>,
    /// How texts become the model's inputs, and its output vectors.
    pub(crate) embed: Option<Embed>,
    /// What a `config.pbtxt` says of the model's tensors.
    #[serde(skip)]
    pub(crate) declared: Option<Declared>,
}

impl Settings {
    /// Most rows that a request may have, where a `config.pbtxt` says so; else 0.
    pub(crate) fn rows_max(&self) -> u32 {
        self.declared.as_ref().map_or(0, |declared| declared.max_batch_size)
    }
}

/// The section `[predict]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Predict {
    /// The input that takes the image. Default: the only one.
    pub(crate) input: Option<String>,
    /// `[width, height]` of the input in pixels. Default: from the model, where it is fixed.
    pub(crate) size: Option<[u32; 2]>,
    /// How an image of another size is brought to `size`.
    pub(crate) resize: Resize,
    /// With `resize = "crop"`: length of the image's short side before `size` is cut out of its middle. Default: the
    /// shortest that fills `size`.
    pub(crate) resize_short: Option<u32>,
    /// With `resize = "fit"`: the colour of the bars, red, green, blue of 0 to 255. Default: `[114, 114, 114]`.
    pub(crate) pad: Option<[u8; 3]>,
    /// How pixels in between are found.
    pub(crate) filter: Filter,
    /// Order of the input's dimensions. Default: as the model's shape says, else `nchw`.
    pub(crate) layout: Option<Layout>,
    /// Which channels, in which order. Default: `gray` for a model of one channel, else `rgb`.
    pub(crate) channels: Option<Channels>,
    /// A pixel's value of 0 to 255 is multiplied by this, then `mean` is taken off and it is divided by `std`. Default:
    /// 1/255; a model that takes UINT8 gets the values as they are.
    pub(crate) scale: Option<f32>,
    /// One for all channels, or one for each, in the order of `channels`. Default: 0.
    pub(crate) mean: Option<Vec<f32>>,
    /// Likewise. Default: 1.
    pub(crate) std: Option<Vec<f32>>,
    /// The output with a score per label, or the one of `boxes = "yolo"`. Default: the only one.
    pub(crate) output: Option<String>,
    /// The labels, in the order of the scores.
    pub(crate) labels: Vec<String>,
    /// A file with the labels, one a line.
    pub(crate) labels_file: Option<String>,
    /// Whether the output holds logits, which softmax turns into shares of 1.
    pub(crate) softmax: bool,
    /// Most labels in an answer, best first. A request can ask for another number.
    pub(crate) top_k: u32,
    /// Labels and boxes of a lower score are left out. A request can ask for another. Default: none for labels, 0.25
    /// for boxes.
    pub(crate) threshold: Option<f32>,
    /// The model finds boxes, in this form.
    pub(crate) boxes: Option<BoxForm>,
    /// With `boxes = "xyxy"`: the output of corners, `[n, 4]`.
    pub(crate) boxes_output: Option<String>,
    /// Likewise: the output of scores, `[n]`, or `[n, labels]`.
    pub(crate) scores_output: Option<String>,
    /// Likewise: the output of the labels' indices, `[n]`. Default: the best of the scores.
    pub(crate) classes_output: Option<String>,
    /// What the boxes are measured in.
    pub(crate) coordinates: Coordinates,
    /// Of two boxes of one label that share more than this of their union, the better one stays. Default: 0.45 for
    /// `yolo`; no box is dropped for `xyxy`.
    pub(crate) nms: Option<f32>,
    /// Most boxes in an answer, best first.
    pub(crate) max_boxes: u32,
    /// How the answer becomes one word. Default: it has none.
    pub(crate) verdict: Option<Verdict>,
}

impl Default for Predict {
    fn default() -> Self {
        Self {
            input: None,
            size: None,
            resize: Resize::Stretch,
            resize_short: None,
            pad: None,
            filter: Filter::Bilinear,
            layout: None,
            channels: None,
            scale: None,
            mean: None,
            std: None,
            output: None,
            labels: Vec::new(),
            labels_file: None,
            softmax: false,
            top_k: 5,
            threshold: None,
            boxes: None,
            boxes_output: None,
            scores_output: None,
            classes_output: None,
            coordinates: Coordinates::Pixels,
            nms: None,
            max_boxes: 100,
            verdict: None,
        }
    }
}

/// How an image of another size is brought to the input's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Resize {
    /// Without regard to its proportions.
    Stretch,
    /// Whole, with bars of `pad` at two sides.
    Fit,
    /// Filling the input; what stands over is cut off on both sides.
    Crop,
}

/// How pixels in between are found. When an image is made smaller, all of its pixels count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Filter {
    /// The nearest one as it is.
    Nearest,
    /// Straight lines between neighbours.
    Bilinear,
    /// Curves through four neighbours.
    Bicubic,
}

/// Order of an image input's dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Layout {
    /// Channel by channel.
    Nchw,
    /// Pixel by pixel.
    Nhwc,
}

/// Which channels, in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// Brightness.
    Gray,
}

impl Channels {
    /// How many.
    pub(crate) const fn count(self) -> usize {
        match self {
            Self::Rgb | Self::Bgr => 3,
            Self::Gray => 1,
        }
    }
}

/// How a model gives its boxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BoxForm {
    /// One output `[1, 4 + labels, n]` or `[1, n, 4 + labels]`: centre, width and height, then a score per label.
    Yolo,
    /// Separate outputs: corners, scores, indices of labels.
    Xyxy,
}

/// What boxes are measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Coordinates {
    /// Pixels of the input.
    Pixels,
    /// Shares of the input's width and height.
    Relative,
}

/// The section `[predict.verdict]`: the best label decides; with boxes, any box does.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Verdict {
    /// The labels that mean `pass`. With boxes, none means that every box is a fault.
    pub(crate) ok: Vec<String>,
    /// Score that the best label needs for `pass`; with boxes, score from which a box counts. Default: 0, and with
    /// boxes `threshold`.
    pub(crate) min_score: Option<f32>,
    /// The word for a good part.
    pub(crate) pass: String,
    /// The word for all others.
    pub(crate) fail: String,
}

impl Default for Verdict {
    fn default() -> Self {
        Self { ok: Vec::new(), min_score: None, pass: "OK".to_owned(), fail: "NOK".to_owned() }
    }
}

/// The section `[embed]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Embed {
    /// The tokenizer, in the form of Hugging Face's `tokenizers`.
    pub(crate) tokenizer: String,
    /// Longer texts are cut to this. Default: what the model's shape or else the tokenizer says, else 512.
    pub(crate) max_tokens: Option<u32>,
    /// How the vectors of a text's tokens become one. An output of one vector per text is taken as it is.
    pub(crate) pooling: Option<Pooling>,
    /// Whether vectors are brought to length 1.
    pub(crate) normalize: bool,
    /// The output of vectors. Default: the only one, else `sentence_embedding`, else `last_hidden_state`.
    pub(crate) output: Option<String>,
    /// Put before every text.
    pub(crate) prefix: String,
}

impl Default for Embed {
    fn default() -> Self {
        Self {
            tokenizer: "tokenizer.json".to_owned(),
            max_tokens: None,
            pooling: None,
            normalize: true,
            output: None,
            prefix: String::new(),
        }
    }
}

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pooling {
    /// Their mean.
    Mean,
    /// The first one.
    Cls,
    /// The largest of each element.
    Max,
    /// The model gives one vector per text.
    None,
}

/// A key whose value does not fit its model, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// With its section: `predict.size`.
    pub(crate) key: &'static str,
    /// For the person who wrote it.
    pub(crate) reason: String,
}

impl Wrong {
    pub(crate) fn new(key: &'static str, reason: impl Into<String>) -> Self {
        Self { key, reason: reason.into() }
    }
}
