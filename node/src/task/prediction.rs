//! The document that answers an image: labels, boxes, a word. Pure.
//!
//! The word is found with the model's own limits. What a request asks to see more or less of does not make a part good.

use serde::Serialize;

use super::{
    boxes::Found,
    pixels::Placement,
    scores::{best_first, top},
};

/// A label's place in a document.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Label<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    index: usize,
    score: f32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Boxed<'a> {
    #[serde(flatten)]
    label: Label<'a>,
    /// Left, top, right, bottom, in pixels of the image.
    #[serde(rename = "box")]
    corners: [f32; 4],
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Document<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<Label<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boxes: Option<Vec<Boxed<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<&'a str>,
}

/// How an answer becomes one word.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Judge {
    /// Indices of the labels that pass.
    pub(crate) ok: Vec<usize>,
    pub(crate) score_min: f32,
    pub(crate) pass: String,
    pub(crate) fail: String,
}

impl Judge {
    fn word(&self, passes: bool) -> &str {
        if passes { &self.pass } else { &self.fail }
    }

    /// The best label decides.
    fn of_scores(&self, scores: &[f32]) -> &str {
        let best = top(scores, 1, |a, b| best_first(f64::from(*a), f64::from(*b)));
        let passes =
            best.first().is_some_and(|best| self.ok.contains(best) && self.score_min <= scores[*best]);
        self.word(passes)
    }

    /// One fault decides.
    fn of_boxes(&self, boxes: &[Found]) -> &str {
        self.word(!boxes.iter().any(|found| self.score_min <= found.score && !self.ok.contains(&found.index)))
    }
}

/// What a model's answers have in common.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prediction {
    /// Empty where the model has no names for them.
    pub(crate) labels: Vec<String>,
    pub(crate) judge: Option<Judge>,
}

impl Prediction {
    /// For a score per label: at most `count` of at least `threshold`.
    pub(crate) fn of_scores(&self, scores: &[f32], count: usize, threshold: Option<f32>) -> Vec<u8> {
        let best = top(scores, count, |a, b| best_first(f64::from(*a), f64::from(*b)));
        let labels = best.into_iter().map(|index| self.label(index, scores[index]));
        let seen = |label: &Label<'_>| threshold.is_none_or(|threshold| threshold <= label.score);
        let verdict = self.judge.as_ref().map(|judge| judge.of_scores(scores));
        written(&Document { labels: Some(labels.filter(seen).collect()), boxes: None, verdict })
    }

    /// For boxes in the input: those that are `shown`, and a word about all that were found.
    ///
    /// Of all of them, because a list that ends after the best hundred good boxes would hide the bad one behind.
    pub(crate) fn of_boxes(&self, found: &[Found], shown: &[Found], placement: &Placement) -> Vec<u8> {
        let boxed = |found: &Found| Boxed {
            label: self.label(found.index, found.score),
            // A hundredth of a pixel is more than any detector knows.
            corners: placement.to_image(found.corners).map(|corner| (corner * 100.0).round() / 100.0),
        };
        let verdict = self.judge.as_ref().map(|judge| judge.of_boxes(found));
        written(&Document { labels: None, boxes: Some(shown.iter().map(boxed).collect()), verdict })
    }

    fn label(&self, index: usize, score: f32) -> Label<'_> {
        Label { label: self.labels.get(index).map(String::as_str), index, score }
    }
}

fn written(document: &Document<'_>) -> Vec<u8> {
    serde_json::to_vec(document).expect("plain values are JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::settings::Resize;

    fn parts(ok: &[usize], score_min: f32) -> Prediction {
        let judge = Judge { ok: ok.to_vec(), score_min, pass: "OK".to_owned(), fail: "NOK".to_owned() };
        let labels = ["good", "scratch", "dent"].map(str::to_owned).to_vec();
        Prediction { labels, judge: Some(judge) }
    }

    fn read(document: &[u8]) -> Value {
        serde_json::from_slice(document).unwrap()
    }

    #[test]
    fn labels_come_best_first_with_a_word() {
        let document = read(&parts(&[0], 0.0).of_scores(&[0.75, 0.0625, 0.1875], 2, None));
        let labels = json!([
            {"label": "good", "index": 0, "score": 0.75},
            {"label": "dent", "index": 2, "score": 0.1875},
        ]);
        assert_eq!(document, json!({"labels": labels, "verdict": "OK"}));
        let nameless = Prediction { labels: vec![], judge: None };
        let document = read(&nameless.of_scores(&[0.25, 0.5], 9, Some(0.5)));
        assert_eq!(document, json!({"labels": [{"index": 1, "score": 0.5}]}));
    }

    #[test]
    fn the_word_does_not_depend_on_what_the_request_sees() {
        let word = |prediction: &Prediction, scores: &[f32]| {
            read(&prediction.of_scores(scores, 0, Some(9.0)))["verdict"].clone()
        };
        assert_eq!(word(&parts(&[0], 0.6), &[0.7, 0.2, 0.1]), "OK");
        assert_eq!(word(&parts(&[0], 0.8), &[0.7, 0.2, 0.1]), "NOK");
        assert_eq!(word(&parts(&[0, 2], 0.0), &[0.1, 0.2, 0.7]), "OK");
        assert_eq!(word(&parts(&[0], 0.0), &[0.1, 0.8, 0.1]), "NOK");
        assert_eq!(word(&parts(&[0], 0.0), &[f32::NAN; 3]), "NOK");
        assert_eq!(word(&parts(&[0], 0.0), &[]), "NOK");
    }

    #[test]
    fn boxes_are_told_in_pixels_of_the_image() {
        let placement = Placement::new((400, 200), (100, 100), Resize::Stretch, None);
        let scratch = Found { index: 1, score: 0.875, corners: [10.0, 10.0, 20.0, 30.0] };
        let good = Found { index: 0, score: 0.5, corners: [0.0, 0.0, 99.0, 99.0] };
        let document = read(&parts(&[0], 0.0).of_boxes(&[scratch, good], &[scratch], &placement));
        let boxes =
            json!([{"label": "scratch", "index": 1, "score": 0.875, "box": [40.0, 20.0, 80.0, 60.0]}]);
        assert_eq!(document, json!({"boxes": boxes, "verdict": "NOK"}));
        let word = |boxes: &[Found], score_min| {
            read(&parts(&[0], score_min).of_boxes(boxes, &[], &placement))["verdict"].clone()
        };
        assert_eq!(word(&[good], 0.0), "OK");
        assert_eq!(word(&[], 0.0), "OK");
        assert_eq!(word(&[scratch], 0.9), "OK");
    }
}
