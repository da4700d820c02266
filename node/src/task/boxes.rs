//! Boxes out of a detector's outputs. Pure.

use std::cmp::Ordering;

use super::scores::{best_first, top};

/// Largest index of a label: up to here, an FP32 counts without gaps.
const LABEL_MAX: f32 = 16_777_216.0;

/// A box that a model found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Found {
    /// Of its label.
    pub(crate) index: usize,
    pub(crate) score: f32,
    /// Left, top, right, bottom.
    pub(crate) corners: [f32; 4],
}

/// Numbers with their dimensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) dims: &'a [u64],
}

impl Numbers<'_> {
    /// The dimensions behind the batch, which is one image: a leading 1 is dropped while there are more than `rank`.
    fn dims(&self, rank: usize) -> &[u64] {
        let mut dims = self.dims;
        while let [1, rest @ ..] = dims
            && rank < dims.len()
        {
            dims = rest;
        }
        dims
    }
}

/// The boxes of one output that holds centre, width and height, and a score per label, of each; those of at least this
/// score.
///
/// # Errors
/// The output has other dimensions, or holds what is no number.
pub(crate) fn yolo(output: Numbers<'_>, labels: usize, threshold: f32) -> Result<Vec<Found>, String> {
    let [a, b] = *output.dims(2) else {
        return Err(format!(
            "its shape is {:?}: [1, 4 + labels, n] or [1, n, 4 + labels] is understood",
            output.dims
        ));
    };
    let (a, b) = (a as usize, b as usize);
    // Without labels nobody says how many there are; there are more boxes than labels.
    let by_row = match labels {
        0 => a <= b,
        labels if a == 4 + labels => true,
        labels if b == 4 + labels => false,
        labels => {
            return Err(format!(
                "its shape is {:?}, but {labels} labels need 4 + {labels} numbers a box",
                output.dims
            ));
        }
    };
    let (numbers, count) = if by_row { (a, b) } else { (b, a) };
    if numbers < 5 {
        return Err(format!("its shape is {:?}: a box has at least five numbers", output.dims));
    }
    let at = |number: usize, of: usize| {
        output.values[if by_row { number * count + of } else { of * numbers + number }]
    };
    let mut found = Vec::new();
    for of in 0..count {
        let (index, score) = best((4..numbers).map(|number| at(number, of)))?;
        if threshold <= score {
            let [x, y, w, h] = [0, 1, 2, 3].map(|number| at(number, of));
            found.push(checked(index, score, [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0])?);
        }
    }
    Ok(found)
}

/// The boxes of separate outputs: corners, scores, and the indices of labels where they are not the best of several
/// scores; those of at least this score.
///
/// # Errors
/// The outputs do not fit each other, or hold what is no number.
pub(crate) fn corners(
    boxes: Numbers<'_>,
    scores: Numbers<'_>,
    classes: Option<Numbers<'_>>,
    threshold: f32,
) -> Result<Vec<Found>, String> {
    let [count, 4] = *boxes.dims(2) else {
        return Err(format!("the boxes have the shape {:?}: [n, 4] is understood", boxes.dims));
    };
    let count = count as usize;
    let each = scores.values.len().checked_div(count).unwrap_or(1);
    let fits = each * count == scores.values.len() && (each == 1 || classes.is_none());
    let classes_fit = classes.is_none_or(|classes| classes.values.len() == count);
    if each == 0 || !fits || !classes_fit {
        return Err(format!(
            "there are {count} boxes, but the scores have the shape {:?} and the labels {:?}",
            scores.dims,
            classes.map(|classes| classes.dims)
        ));
    }
    let mut found = Vec::new();
    for (of, corners) in boxes.values.as_chunks::<4>().0.iter().enumerate() {
        let (mut index, score) = best(scores.values[of * each..(of + 1) * each].iter().copied())?;
        if let Some(classes) = classes {
            let class = classes.values[of];
            if !(0.0..=LABEL_MAX).contains(&class) {
                return Err(format!("it holds a label's index that is {class}"));
            }
            index = class as usize;
        }
        if threshold <= score {
            found.push(checked(index, score, *corners)?);
        }
    }
    Ok(found)
}

fn best(scores: impl Iterator<Item = f32>) -> Result<(usize, f32), String> {
    let mut best = (0, f32::NEG_INFINITY);
    for (index, score) in scores.enumerate() {
        if score.is_nan() {
            return Err("it holds a score that is no number".to_owned());
        }
        if best.1 < score {
            best = (index, score);
        }
    }
    Ok(best)
}

fn checked(index: usize, score: f32, corners: [f32; 4]) -> Result<Found, String> {
    match score.is_finite() && corners.iter().all(|corner| corner.is_finite()) {
        true => Ok(Found { index, score, corners }),
        false => Err("it holds a box that is no number".to_owned()),
    }
}

/// The `count` best boxes, best first, without those that share more than `shared_max` of their union with a better one
/// of their label. `None` drops no box for another.
pub(crate) fn suppress(found: &[Found], shared_max: Option<f32>, count: usize) -> Vec<Found> {
    let order = |a: &Found, b: &Found| -> Ordering { best_first(f64::from(a.score), f64::from(b.score)) };
    let Some(shared_max) = shared_max else {
        return top(found, count, order).into_iter().map(|at| found[at]).collect();
    };
    let mut kept: Vec<Found> = Vec::new();
    // Each is compared with what is kept alone, so the work is bounded by both numbers.
    for at in top(found, found.len(), order) {
        if kept.len() == count {
            break;
        }
        let one = found[at];
        let over =
            |other: &Found| other.index == one.index && shared_max < shared(other.corners, one.corners);
        if !kept.iter().any(over) {
            kept.push(one);
        }
    }
    kept
}

/// How much of their union two boxes share, 0 to 1.
fn shared(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area = |[x0, y0, x1, y1]: [f32; 4]| (x1 - x0).max(0.0) * (y1 - y0).max(0.0);
    let both = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let union = area(a) + area(b) - both;
    if 0.0 < union { both / union } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(index: usize, score: f32, corners: [f32; 4]) -> Found {
        Found { index, score, corners }
    }

    #[test]
    fn both_orders_of_a_yolo_output_give_the_same_boxes() {
        // Two labels, three boxes: x, y, w, h, scratch, dent.
        let boxes = [
            [10.0, 10.0, 4.0, 2.0, 0.9, 0.1],
            [50.0, 50.0, 10.0, 10.0, 0.2, 0.6],
            [1.0, 1.0, 1.0, 1.0, 0.1, 0.2],
        ];
        let rows = boxes.concat();
        let columns: Vec<f32> = (0..6).flat_map(|number| boxes.map(|of| of[number])).collect();
        let expected = [found(0, 0.9, [8.0, 9.0, 12.0, 11.0]), found(1, 0.6, [45.0, 45.0, 55.0, 55.0])];
        let by_row = yolo(Numbers { values: &rows, dims: &[1, 3, 6] }, 2, 0.5);
        assert_eq!(by_row.as_deref(), Ok(&expected[..]));
        assert_eq!(yolo(Numbers { values: &columns, dims: &[1, 6, 3] }, 2, 0.5), by_row);
        let wrong = yolo(Numbers { values: &rows, dims: &[1, 3, 6] }, 7, 0.5).unwrap_err();
        assert!(wrong.contains("7 labels need 4 + 7"), "{wrong}");
        assert!(yolo(Numbers { values: &rows, dims: &[18] }, 2, 0.5).is_err());
        assert!(yolo(Numbers { values: &[f32::NAN; 6], dims: &[1, 6, 1] }, 2, 0.5).is_err());
        assert_eq!(yolo(Numbers { values: &[], dims: &[1, 6, 0] }, 2, 0.5), Ok(vec![]));
    }

    #[test]
    fn separate_outputs_belong_together() {
        let boxes = Numbers { values: &[0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0], dims: &[1, 2, 4] };
        let scores = Numbers { values: &[0.3, 0.8], dims: &[1, 2] };
        let classes = Numbers { values: &[4.0, 2.0], dims: &[1, 2] };
        let one = found(2, 0.8, [2.0, 2.0, 3.0, 3.0]);
        assert_eq!(corners(boxes, scores, Some(classes), 0.5), Ok(vec![one]));
        let each = Numbers { values: &[0.1, 0.2, 0.3, 0.9, 0.1, 0.2], dims: &[1, 2, 3] };
        assert_eq!(corners(boxes, each, None, 0.5), Ok(vec![Found { index: 0, score: 0.9, ..one }]));
        assert!(corners(boxes, each, Some(classes), 0.5).is_err());
        let strange = Numbers { values: &[-1.0, f32::NAN], dims: &[2] };
        assert!(corners(boxes, scores, Some(strange), 0.5).unwrap_err().contains("index that is -1"));
        assert!(corners(scores, scores, None, 0.5).is_err());
        let none = Numbers { values: &[], dims: &[0, 4] };
        let nothing = Numbers { values: &[], dims: &[0] };
        assert_eq!(corners(none, nothing, Some(nothing), 0.5), Ok(vec![]));
    }

    #[test]
    fn of_boxes_on_one_fault_the_best_stays() {
        let all = [
            found(0, 0.8, [0.0, 0.0, 10.0, 10.0]),
            found(0, 0.9, [1.0, 0.0, 11.0, 10.0]),
            found(1, 0.7, [0.0, 0.0, 10.0, 10.0]),
            found(0, 0.6, [40.0, 0.0, 50.0, 10.0]),
        ];
        assert_eq!(suppress(&all, Some(0.5), 9), [all[1], all[2], all[3]]);
        assert_eq!(suppress(&all, Some(0.5), 2), [all[1], all[2]]);
        assert_eq!(suppress(&all, None, 9), [all[1], all[0], all[2], all[3]]);
    }

    proptest! {
        #[test]
        fn what_is_kept_does_not_overlap_and_what_is_dropped_does(
            all in prop::collection::vec((0_usize..3, 0.0_f32..1.0, 0.0_f32..9.0, 0.0_f32..9.0, 0.1_f32..5.0), 0..30),
            shared_max in 0.05_f32..0.95,
        ) {
            let all: Vec<_> = all.iter().map(|(i, s, x, y, w)| found(*i, *s, [*x, *y, x + w, y + w])).collect();
            let kept = suppress(&all, Some(shared_max), all.len());
            prop_assert!(kept.is_sorted_by(|a, b| b.score <= a.score));
            for (at, one) in kept.iter().enumerate() {
                let over = |other: &&Found| other.index == one.index && shared_max < shared(other.corners, one.corners);
                prop_assert!(kept[..at].iter().find(over).is_none());
            }
            for one in all.iter().filter(|one| !kept.contains(one)) {
                prop_assert!(kept.iter().any(|better| better.index == one.index
                    && one.score <= better.score && shared_max < shared(better.corners, one.corners)));
            }
        }
    }
}
