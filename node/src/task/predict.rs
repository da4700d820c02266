//! An image in, labels, boxes and a verdict out.

mod setup;

use bytes::Bytes;
use lineside_wire::{Datatype, Fault, InferParams, ModelName, Task, Tensor, bytes_elements, bytes_tensor};

use super::{
    Failure, Turn,
    boxes::{Found, Numbers, corners, suppress, yolo},
    invalid, number,
    numbers::floats,
    only_input, picture,
    pixels::{Elements, Placement, place},
    prediction::Prediction,
    scores::softmax,
    wanted, whole,
};
use crate::{
    engine::RunError,
    settings::{Channels, Filter, Resize},
};

/// Most labels or boxes that an answer may hold: some 100 KB of document.
pub(crate) const ANSWERS_MAX: u32 = 1000;

/// How a model takes images and what it makes of them.
#[derive(Debug)]
pub(crate) struct Predictor {
    input: String,
    /// The input's dimensions for one image.
    dims: Vec<u64>,
    /// Its width and height.
    size: (u32, u32),
    resize: Resize,
    short: Option<u32>,
    pad: [u8; 3],
    filter: Filter,
    elements: Elements,
    /// Indices of the outputs that are needed.
    outputs: Vec<usize>,
    answer: Answer,
    prediction: Prediction,
    top_k: u32,
    threshold: Option<f32>,
}

/// What the outputs are, in the order of [`Predictor::outputs`].
#[derive(Debug)]
enum Answer {
    /// A score per label.
    Labels { softmax: bool },
    /// One output of boxes.
    Yolo(Boxes),
    /// Corners, scores, and indices of labels if there are three.
    Corners(Boxes),
}

#[derive(Debug)]
struct Boxes {
    relative: bool,
    shared_max: Option<f32>,
    /// Most in an answer.
    count: usize,
}

/// An image, and what its sender wants to see of the answer.
#[derive(Debug)]
pub(crate) struct Sent {
    file: Bytes,
    top_k: Option<u32>,
    threshold: Option<f32>,
}

impl Predictor {
    pub(super) fn fit(
        &self,
        model: &ModelName,
        params: &InferParams,
        given: Vec<Tensor>,
    ) -> Result<Sent, Fault> {
        let (_, tensor) = only_input(model, Task::Predict, &[Task::IMAGE], given)?;
        if tensor.shape.elements() != 1 {
            let shape = tensor.shape.dims();
            return Err(invalid(format!("{model} takes one image a call, but the shape {shape:?} was sent")));
        }
        wanted(model, Task::Predict, &[Task::PREDICTION], &params.outputs)?;
        let (top_k, threshold) = (whole(params, "top_k", ANSWERS_MAX)?, number(params, "threshold")?);
        // One element: its length comes before it.
        Ok(Sent { file: tensor.bytes, top_k, threshold })
    }

    /// The names of an output's elements.
    pub(super) fn labels_of(&self, output: usize) -> &[String] {
        match self.answer {
            Answer::Labels { .. } if self.outputs == [output] => &self.prediction.labels,
            _ => &[],
        }
    }

    pub(super) fn run(&self, sent: &Sent, turn: &mut Turn<'_>) -> Result<Vec<Tensor>, Failure> {
        let (input, placement) = turn.prepare(|| self.input(&sent.file))?;
        let outputs = turn.run(&[input], &self.outputs, 1)?;
        turn.finish(|| {
            let document = self.document(sent, &placement, &outputs)?;
            let bytes = bytes_tensor([&document[..]]).map_err(RunError::from)?;
            let tensor = Tensor::new(Task::PREDICTION, Datatype::Bytes, vec![1], bytes.into());
            Ok(vec![tensor.map_err(RunError::from)?])
        })
    }

    fn input(&self, element: &[u8]) -> Result<(Tensor, Placement), Failure> {
        let files = bytes_elements(element, 1).map_err(|error| Failure::Sent(error.to_string()))?;
        let picture = picture::decode(files[0], self.elements.channels == Channels::Gray);
        let picture = picture.map_err(Failure::Sent)?;
        let placement = Placement::new((picture.width, picture.height), self.size, self.resize, self.short);
        let placed = place(&picture, &placement, self.size, self.filter, self.pad);
        drop(picture);
        let bytes = Bytes::from(self.elements.of(&placed));
        let tensor = Tensor::new(self.input.clone(), self.elements.datatype, self.dims.clone(), bytes);
        Ok((tensor.map_err(RunError::from)?, placement))
    }

    fn document(&self, sent: &Sent, placement: &Placement, outputs: &[Tensor]) -> Result<Vec<u8>, Failure> {
        let numbers = outputs.iter().map(|output| floats(output).ok_or_else(|| no_numbers(output)));
        let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
        let boxes = match &self.answer {
            Answer::Labels { softmax } => return self.of_scores(sent, *softmax, numbers),
            Answer::Yolo(boxes) | Answer::Corners(boxes) => boxes,
        };
        let own = self.threshold.unwrap_or(setup::BOX_THRESHOLD);
        let seen = sent.threshold.unwrap_or(own);
        // The verdict goes by the model's own settings, whatever the request wants to see.
        let judged = self.prediction.judge.as_ref().map_or(seen, |judge| judge.score_min);
        let found = self.found(outputs, &numbers, seen.min(judged))?;
        let found: Vec<Found> =
            found.into_iter().map(|found| self.in_pixels(found, boxes.relative)).collect();
        let candidates: Vec<Found> = found.iter().filter(|found| seen <= found.score).copied().collect();
        let count = sent.top_k.map_or(boxes.count, |top_k| top_k as usize);
        let shown = suppress(&candidates, boxes.shared_max, count);
        Ok(self.prediction.of_boxes(&found, &shown, placement))
    }

    fn of_scores(&self, sent: &Sent, logits: bool, numbers: Vec<Vec<f32>>) -> Result<Vec<u8>, Failure> {
        let mut scores = numbers.into_iter().next().unwrap_or_default();
        if logits {
            softmax(&mut scores);
        }
        let labels = self.prediction.labels.len();
        if labels != 0 && labels != scores.len() {
            return Err(Failure::Outputs(format!("it gave {} scores for {labels} labels", scores.len())));
        }
        // A part is not judged by what is no number.
        if let Some(at) = scores.iter().position(|score| !score.is_finite()) {
            return Err(Failure::Outputs(format!("its score {at} is {}, which is no number", scores[at])));
        }
        let count = sent.top_k.unwrap_or(self.top_k) as usize;
        Ok(self.prediction.of_scores(&scores, count, sent.threshold.or(self.threshold)))
    }

    fn found(&self, outputs: &[Tensor], numbers: &[Vec<f32>], threshold: f32) -> Result<Vec<Found>, Failure> {
        let at = |index: usize| {
            let (output, values) = (outputs.get(index)?, numbers.get(index)?);
            Some(Numbers { values, dims: output.shape.dims() })
        };
        let found = match (&self.answer, at(0), at(1)) {
            (Answer::Yolo(_), Some(output), _) => yolo(output, self.prediction.labels.len(), threshold),
            (Answer::Corners(_), Some(boxes), Some(scores)) => corners(boxes, scores, at(2), threshold),
            (Answer::Labels { .. } | Answer::Yolo(_) | Answer::Corners(_), ..) => {
                Err("outputs are missing".to_owned())
            }
        };
        found.map_err(Failure::Outputs)
    }

    fn in_pixels(&self, found: Found, relative: bool) -> Found {
        if !relative {
            return found;
        }
        let (width, height) = (self.size.0 as f32, self.size.1 as f32);
        let [x0, y0, x1, y1] = found.corners;
        Found { corners: [x0 * width, y0 * height, x1 * width, y1 * height], ..found }
    }
}

fn no_numbers(output: &Tensor) -> Failure {
    Failure::Outputs(format!("its output {:?} is {}: numbers are needed", output.name, output.datatype))
}
