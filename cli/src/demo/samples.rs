//! The sample models and inputs, carried in the binary so that the demo works from anywhere.
//!
//! `expected` is what the model itself answers: anything else is a fault of the serving. `truth` is what the part or
//! the bearing really was: how good the model is.

use bytes::Bytes;
use serde::Deserialize;

use crate::local::Model;

/// The picture classifier.
pub(super) const SURFACE: &str = "surface-defects";
/// The vibration anomaly detector.
pub(super) const VIBRATION: &str = "vibration-anomaly";

/// Every model that the demo serves.
pub(super) const MODELS: [Model; 3] = [
    Model {
        name: SURFACE,
        onnx: include_bytes!("../../../models/repository/surface-defects/1/model.onnx"),
        settings: None,
    },
    Model {
        name: VIBRATION,
        onnx: include_bytes!("../../../models/repository/vibration-anomaly/1/model.onnx"),
        settings: None,
    },
    Model {
        name: "add",
        onnx: include_bytes!("../../../models/repository/add/1/model.onnx"),
        settings: None,
    },
];

const PICTURES: &[u8] = include_bytes!("../../../models/samples/surface-defects/images.u8");
const PICTURE_LABELS: &str = include_str!("../../../models/samples/surface-defects/labels.json");
const ROWS: &str = include_str!("../../../models/samples/vibration-anomaly/rows.json");

/// What a model says of one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The class with the highest probability.
    Class(usize),
    /// Anomalous or not.
    Anomalous(bool),
}

/// One input with what to expect.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// For which model.
    pub(super) model: &'static str,
    /// The name of the model's input.
    pub(super) input: &'static str,
    /// Its shape, one entry in the batch.
    pub(super) shape: Vec<u64>,
    /// Its FP32 elements, little-endian.
    pub(super) bytes: Bytes,
    /// The output that decides.
    pub(super) output: &'static str,
    /// What the model answers wherever it runs right.
    pub(super) expected: Answer,
    /// What a perfect model would answer.
    pub(super) truth: Answer,
}

impl Sample {
    /// Its elements.
    pub(super) fn values(&self) -> impl Iterator<Item = f32> {
        self.bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes(chunk.try_into().expect("4 bytes")))
    }
}

#[derive(Deserialize)]
struct Labels {
    classes: Vec<String>,
    height: usize,
    width: usize,
    images: Vec<Picture>,
}

#[derive(Deserialize)]
struct Picture {
    label: String,
    expected: String,
}

#[derive(Deserialize)]
struct Rows {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    features: Vec<f32>,
    anomalous: bool,
    expected: bool,
}

/// Every sample: pictures and rows in turns, so that any stretch of the traffic has both.
///
/// # Panics
/// The embedded samples are damaged, which a test rules out.
pub(super) fn samples() -> Vec<Sample> {
    let (mut pictures, mut rows) = (pictures().into_iter(), rows().into_iter());
    let mut samples = Vec::new();
    loop {
        let (picture, row) = (pictures.next(), rows.next());
        if picture.is_none() && row.is_none() {
            return samples;
        }
        samples.extend(picture.into_iter().chain(row));
    }
}

fn pictures() -> Vec<Sample> {
    let labels: Labels = serde_json::from_str(PICTURE_LABELS).expect("the embedded labels are valid");
    let class = |name: &str| {
        let index = labels.classes.iter().position(|class| class == name);
        Answer::Class(index.expect("every label is a class"))
    };
    let pixels = labels.height * labels.width;
    let pictures = PICTURES.chunks_exact(pixels).zip(&labels.images);
    let sample = |(grey, picture): (&[u8], &Picture)| Sample {
        model: SURFACE,
        input: "image",
        shape: vec![1, 1, labels.height as u64, labels.width as u64],
        bytes: grey.iter().flat_map(|byte| (f32::from(*byte) / 255.0).to_le_bytes()).collect(),
        output: "probabilities",
        expected: class(&picture.expected),
        truth: class(&picture.label),
    };
    pictures.map(sample).collect()
}

fn rows() -> Vec<Sample> {
    let rows: Rows = serde_json::from_str(ROWS).expect("the embedded rows are valid");
    let sample = |row: Row| Sample {
        model: VIBRATION,
        input: "features",
        shape: vec![1, row.features.len() as u64],
        bytes: row.features.iter().flat_map(|feature| feature.to_le_bytes()).collect(),
        output: "anomalous",
        expected: Answer::Anomalous(row.expected),
        truth: Answer::Anomalous(row.anomalous),
    };
    rows.rows.into_iter().map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_are_the_pictures_and_the_rows_that_the_repository_holds() {
        let samples = samples();
        let of = |model: &str| samples.iter().filter(|sample| sample.model == model).count();
        assert_eq!((of(SURFACE), of(VIBRATION)), (100, 200));
        for sample in &samples {
            assert_eq!(sample.shape.iter().product::<u64>() * 4, sample.bytes.len() as u64);
            assert!(sample.values().all(f32::is_finite));
        }
        assert!(samples[..4].iter().any(|sample| sample.model == SURFACE));
        assert!(samples[..4].iter().any(|sample| sample.model == VIBRATION));
    }
}
