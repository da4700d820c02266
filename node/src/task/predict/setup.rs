//! What the section `[predict]` makes of a model.

use lineside_wire::{Datatype, Limits, TensorSpec};

use super::{ANSWERS_MAX, Answer, Boxes, Predictor};
use crate::{
    settings::{BoxForm, Channels, Coordinates, Layout, Predict, Resize, Verdict, Wrong, nearest},
    task::{
        fitting::{Fit, LABELS_BYTES_MAX, names, position},
        pixels::Elements,
        prediction::{Judge, Prediction},
    },
};

/// Boxes of a lower score are left out, unless the settings say another.
pub(super) const BOX_THRESHOLD: f32 = 0.25;

/// Of two boxes that share more of their union, one stays, unless the settings say another.
const SHARED_MAX: f32 = 0.45;

/// The colour of bars, unless the settings say another: the grey that detectors are trained with.
const PAD: [u8; 3] = [114; 3];

/// Longest side of an input, in pixels: no model in the field takes more than half of it.
const INPUT_SIDE_MAX: u32 = 4096;

/// Most labels: the largest set in the field has a fifth of it.
const LABELS_MAX: usize = 100_000;

/// Longest label, in characters: an answer holds many.
const LABEL_CHARS_MAX: usize = 100;

/// Longest word of a verdict, in bytes: it may become a header's value.
const WORD_BYTES_MAX: usize = 32;

impl Predictor {
    /// Settles how images come into the model and what comes out of it.
    ///
    /// # Errors
    /// A key does not fit the model or another key.
    pub(in crate::task) fn new(settings: &Predict, fit: Fit<'_>) -> Result<Self, Wrong> {
        alone(settings)?;
        let spec = input(settings, fit)?;
        let frame = frame(settings, spec)?;
        let elements = elements(settings, spec, &frame)?;
        let labels = labels(settings, fit)?;
        let (outputs, answer) = answer(settings, fit)?;
        if matches!(answer, Answer::Labels { .. }) {
            scores_fit(settings, &fit.signature.outputs[outputs[0]], labels.len())?;
        }
        let judge = settings.verdict.as_ref().map(|verdict| judge(verdict, settings, &labels)).transpose()?;
        Ok(Self {
            input: spec.name.clone(),
            dims: frame.dims(spec.shape.len() == 3),
            size: frame.size,
            resize: settings.resize,
            short: settings.resize_short,
            pad: settings.pad.unwrap_or(PAD),
            filter: settings.filter,
            elements,
            outputs,
            answer,
            prediction: Prediction { labels, judge },
            top_k: settings.top_k,
            threshold: settings.threshold,
        })
    }
}

/// Whether the keys make sense beside each other and have values that mean something.
fn alone(settings: &Predict) -> Result<(), Wrong> {
    let boxes = settings.boxes.is_some();
    let corners = settings.boxes == Some(BoxForm::Xyxy);
    let only_corners = "is read only with boxes = \"xyxy\"";
    let in_vain = [
        (
            settings.resize_short.is_some() && settings.resize != Resize::Crop,
            "predict.resize_short",
            "is read only with resize = \"crop\"",
        ),
        (
            settings.pad.is_some() && settings.resize != Resize::Fit,
            "predict.pad",
            "is read only with resize = \"fit\"",
        ),
        (settings.softmax && boxes, "predict.softmax", "is read only without boxes"),
        (settings.nms.is_some() && !boxes, "predict.nms", "is read only with boxes"),
        (
            settings.coordinates != Coordinates::Pixels && !boxes,
            "predict.coordinates",
            "is read only with boxes",
        ),
        (settings.boxes_output.is_some() && !corners, "predict.boxes_output", only_corners),
        (settings.scores_output.is_some() && !corners, "predict.scores_output", only_corners),
        (settings.classes_output.is_some() && !corners, "predict.classes_output", only_corners),
        (settings.output.is_some() && corners, "predict.output", "is read only without boxes = \"xyxy\""),
    ];
    if let Some((_, key, reason)) = in_vain.into_iter().find(|(set, ..)| *set) {
        return Err(Wrong::new(key, reason));
    }
    let count = |number: u32, key| match (1..=ANSWERS_MAX).contains(&number) {
        true => Ok(()),
        false => Err(Wrong::new(key, format!("{number} is not 1 to {ANSWERS_MAX}"))),
    };
    count(settings.top_k, "predict.top_k")?;
    count(settings.max_boxes, "predict.max_boxes")?;
    let finite = |number: Option<f32>, key| match number.is_none_or(f32::is_finite) {
        true => Ok(()),
        false => Err(Wrong::new(key, "is no number that anything can be compared with")),
    };
    finite(settings.threshold, "predict.threshold")?;
    finite(settings.scale, "predict.scale")?;
    match settings.nms.is_none_or(|share| (0.0..=1.0).contains(&share)) {
        true => Ok(()),
        false => Err(Wrong::new("predict.nms", "is a share of 0 to 1")),
    }
}

fn input<'a>(settings: &Predict, fit: Fit<'a>) -> Result<&'a TensorSpec, Wrong> {
    const KEY: &str = "predict.input";
    let inputs = &fit.signature.inputs;
    let index = match (&settings.input, inputs.len()) {
        (Some(name), _) => position(inputs, name, "input", KEY)?,
        (None, _) => 0,
    };
    let [spec] = &inputs[..] else {
        let all = names(inputs);
        return Err(Wrong::new(
            KEY,
            format!("an image fills one input, but the model has {}: {all}", inputs.len()),
        ));
    };
    debug_assert_eq!(index, 0);
    let TensorSpec { name, datatype, shape } = spec;
    if !matches!(datatype, Datatype::Fp32 | Datatype::Fp16 | Datatype::Uint8) {
        return Err(Wrong::new(KEY, format!("{name} is {datatype}: an image fills FP32, FP16 or UINT8")));
    }
    match shape[..] {
        [] | [_, _, _] | [-1 | 1, _, _, _] => Ok(spec),
        _ => Err(Wrong::new(
            KEY,
            format!(
                "{name} has the shape {shape:?}: an image fills [1, channels, height, width] or \
                 [1, height, width, channels], also without the leading 1"
            ),
        )),
    }
}

/// The input as an image.
struct Frame {
    layout: Layout,
    channels: Channels,
    size: (u32, u32),
}

impl Frame {
    fn dims(&self, without_batch: bool) -> Vec<u64> {
        let channels = self.channels.count() as u64;
        let (width, height) = (u64::from(self.size.0), u64::from(self.size.1));
        let mut dims = match self.layout {
            Layout::Nchw => vec![1, channels, height, width],
            Layout::Nhwc => vec![1, height, width, channels],
        };
        if without_batch {
            dims.remove(0);
        }
        dims
    }
}

fn frame(settings: &Predict, spec: &TensorSpec) -> Result<Frame, Wrong> {
    let inner = match spec.shape[..] {
        [a, b, c] | [_, a, b, c] => [a, b, c],
        _ => [-1; 3],
    };
    let is_channels = |dim: i64| dim == 1 || dim == 3;
    let layout = settings.layout.unwrap_or(match inner {
        [first, _, last] if !is_channels(first) && is_channels(last) => Layout::Nhwc,
        _ => Layout::Nchw,
    });
    let (depth, height, width) = match (layout, inner) {
        (Layout::Nchw, [depth, height, width]) | (Layout::Nhwc, [height, width, depth]) => {
            (depth, height, width)
        }
    };
    let channels = settings.channels.unwrap_or(if depth == 1 { Channels::Gray } else { Channels::Rgb });
    if 0 <= depth && depth != channels.count() as i64 {
        let (key, shape) = ("predict.channels", &spec.shape);
        let reason = format!(
            "{channels:?} has {}, but the input's shape is {shape:?}, read as {layout:?}",
            channels.count()
        );
        return Err(Wrong::new(key, reason));
    }
    const KEY: &str = "predict.size";
    let side = |fixed: i64, at: usize, what: &str| match (u32::try_from(fixed).ok(), settings.size) {
        (Some(fixed), Some(size)) if size[at] != fixed => {
            Err(Wrong::new(KEY, format!("the model's {what} is {fixed}, not {}", size[at])))
        }
        (Some(side), _) => Ok(side),
        (None, Some(size)) => Ok(size[at]),
        (None, None) => Err(Wrong::new(KEY, format!("is missing: the model leaves its {what} open"))),
    };
    let size = (side(width, 0, "width")?, side(height, 1, "height")?);
    let bytes = u64::from(size.0)
        * u64::from(size.1)
        * (channels.count() * spec.datatype.width().unwrap_or(4)) as u64;
    let max = Limits::default().payload_bytes_max;
    if [size.0, size.1].iter().any(|side| !(1..=INPUT_SIDE_MAX).contains(side)) || u64::from(max) < bytes {
        let reason =
            format!("{} x {} is not 1 to {INPUT_SIDE_MAX} a side and at most {max} bytes", size.0, size.1);
        return Err(Wrong::new(KEY, reason));
    }
    if settings.resize_short.is_some_and(|short| short < size.0.max(size.1)) {
        let reason = format!("is less than {}, which is cut out of it", size.0.max(size.1));
        return Err(Wrong::new("predict.resize_short", reason));
    }
    Ok(Frame { layout, channels, size })
}

fn elements(settings: &Predict, spec: &TensorSpec, frame: &Frame) -> Result<Elements, Wrong> {
    let count = frame.channels.count();
    let each = |given: &Option<Vec<f32>>, otherwise: f32, key| match given.as_deref() {
        None => Ok(vec![otherwise; count]),
        Some([]) => Err(Wrong::new(key, "is empty: give one number, or one for each channel")),
        Some(numbers) if !numbers.iter().all(|number| number.is_finite()) => {
            Err(Wrong::new(key, "holds what is no number"))
        }
        Some([one]) => Ok(vec![*one; count]),
        Some(numbers) if numbers.len() == count => Ok(numbers.to_vec()),
        Some(numbers) => Err(Wrong::new(key, format!("has {} numbers for {count} channels", numbers.len()))),
    };
    let (mean, std) = (each(&settings.mean, 0.0, "predict.mean")?, each(&settings.std, 1.0, "predict.std")?);
    if std.contains(&0.0) {
        return Err(Wrong::new("predict.std", "is 0, by which nothing is divided"));
    }
    if spec.datatype == Datatype::Uint8 {
        let set = [
            (settings.scale.is_some(), "predict.scale"),
            (settings.mean.is_some(), "predict.mean"),
            (settings.std.is_some(), "predict.std"),
        ];
        if let Some((_, key)) = set.into_iter().find(|(set, _)| *set) {
            return Err(Wrong::new(key, "the model takes UINT8: it gets the pixels as they are"));
        }
    }
    let scale = settings.scale.unwrap_or(1.0 / 255.0);
    Ok(Elements { channels: frame.channels, layout: frame.layout, datatype: spec.datatype, scale, mean, std })
}

fn labels(settings: &Predict, fit: Fit<'_>) -> Result<Vec<String>, Wrong> {
    let (labels, key) = match &settings.labels_file {
        None => (settings.labels.clone(), "predict.labels"),
        Some(_) if !settings.labels.is_empty() => {
            return Err(Wrong::new("predict.labels_file", "is read only without labels"));
        }
        Some(name) => {
            let key = "predict.labels_file";
            let text = fit.folder.read(name, LABELS_BYTES_MAX).map_err(|reason| Wrong::new(key, reason))?;
            (text.lines().map(|line| line.trim().to_owned()).collect(), key)
        }
    };
    if LABELS_MAX < labels.len() {
        return Err(Wrong::new(key, format!("there are {} labels, of at most {LABELS_MAX}", labels.len())));
    }
    let unfit = |label: &String| label.is_empty() || LABEL_CHARS_MAX < label.chars().count();
    match labels.iter().position(unfit) {
        Some(at) => Err(Wrong::new(key, format!("label {at} is not 1 to {LABEL_CHARS_MAX} characters long"))),
        None => Ok(labels),
    }
}

fn answer(settings: &Predict, fit: Fit<'_>) -> Result<(Vec<usize>, Answer), Wrong> {
    let boxes = |otherwise: Option<f32>| Boxes {
        relative: settings.coordinates == Coordinates::Relative,
        shared_max: settings.nms.or(otherwise),
        count: settings.max_boxes as usize,
    };
    match settings.boxes {
        None => {
            let output = fit.output(settings.output.as_deref(), "predict.output")?;
            Ok((vec![output], Answer::Labels { softmax: settings.softmax }))
        }
        Some(BoxForm::Yolo) => {
            let output = fit.output(settings.output.as_deref(), "predict.output")?;
            Ok((vec![output], Answer::Yolo(boxes(Some(SHARED_MAX)))))
        }
        Some(BoxForm::Xyxy) => {
            let needed = |name: &Option<String>, key| match name {
                Some(name) => fit.output(Some(name), key),
                None => Err(Wrong::new(key, "is missing: boxes = \"xyxy\" needs it")),
            };
            let mut outputs = vec![
                needed(&settings.boxes_output, "predict.boxes_output")?,
                needed(&settings.scores_output, "predict.scores_output")?,
            ];
            if settings.classes_output.is_some() {
                outputs.push(needed(&settings.classes_output, "predict.classes_output")?);
            }
            Ok((outputs, Answer::Corners(boxes(None))))
        }
    }
}

/// Whether there are as many labels as scores, where the model says how many.
fn scores_fit(settings: &Predict, output: &TensorSpec, labels: usize) -> Result<(), Wrong> {
    let each = if let [_, rest @ ..] = &output.shape[..]
        && !rest.is_empty()
    {
        rest
    } else {
        &output.shape[..]
    };
    if labels == 0 || each.is_empty() || each.iter().any(|dim| *dim < 0) {
        return Ok(());
    }
    let scores: i64 = each.iter().product();
    match scores == labels as i64 {
        true => Ok(()),
        false => {
            let key = if settings.labels_file.is_some() { "predict.labels_file" } else { "predict.labels" };
            let reason =
                format!("there are {labels} labels, but the output {:?} has {scores} scores", output.name);
            Err(Wrong::new(key, reason))
        }
    }
}

fn judge(verdict: &Verdict, settings: &Predict, labels: &[String]) -> Result<Judge, Wrong> {
    let boxes = settings.boxes.is_some();
    if verdict.ok.is_empty() && !boxes {
        return Err(Wrong::new("predict.verdict.ok", "names no label, so that no part would pass"));
    }
    let known: Vec<&str> = labels.iter().map(String::as_str).collect();
    let index = |name: &String| {
        labels.iter().position(|label| label == name).ok_or_else(|| {
            let hint =
                nearest(name, &known).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
            Wrong::new("predict.verdict.ok", format!("there is no label {name:?}{hint}"))
        })
    };
    let ok = verdict.ok.iter().map(index).collect::<Result<_, _>>()?;
    for (word, key) in [(&verdict.pass, "predict.verdict.pass"), (&verdict.fail, "predict.verdict.fail")] {
        if !(1..=WORD_BYTES_MAX).contains(&word.len()) || !word.bytes().all(|byte| byte.is_ascii_graphic()) {
            let reason = format!("is not one word of 1 to {WORD_BYTES_MAX} letters without accents");
            return Err(Wrong::new(key, reason));
        }
    }
    if verdict.pass == verdict.fail {
        return Err(Wrong::new("predict.verdict.fail", "is the same word as pass"));
    }
    if verdict.min_score.is_some_and(|score| !score.is_finite()) {
        return Err(Wrong::new(
            "predict.verdict.min_score",
            "is no number that anything can be compared with",
        ));
    }
    let otherwise = if boxes { settings.threshold.unwrap_or(BOX_THRESHOLD) } else { f32::NEG_INFINITY };
    let score_min = verdict.min_score.unwrap_or(otherwise);
    Ok(Judge { ok, score_min, pass: verdict.pass.clone(), fail: verdict.fail.clone() })
}
