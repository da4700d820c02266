//! Scores and their order. Pure.

use std::cmp::Ordering;

/// The order of scores, best first; what is no number comes last.
pub(crate) fn best_first(a: f64, b: f64) -> Ordering {
    a.is_nan().cmp(&b.is_nan()).then(b.total_cmp(&a))
}

/// Indices of the `count` first values in this order; of two that are equal, the one that stands first.
pub(crate) fn top<T>(values: &[T], count: usize, order: impl Fn(&T, &T) -> Ordering) -> Vec<usize> {
    let by = |a: &usize, b: &usize| order(&values[*a], &values[*b]).then(a.cmp(b));
    let mut indices: Vec<usize> = (0..values.len()).collect();
    if 0 < count && count < indices.len() {
        indices.select_nth_unstable_by(count - 1, by);
    }
    indices.truncate(count);
    indices.sort_unstable_by(by);
    indices
}

/// Turns logits into shares of 1. Without an infinite or a missing number among them, every share is a number.
pub(crate) fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0_f64;
    for score in &mut *scores {
        *score = (*score - largest).exp();
        sum += f64::from(*score);
    }
    for score in scores {
        *score = (f64::from(*score) / sum) as f32;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(a: &f32, b: &f32) -> Ordering {
        best_first(f64::from(*a), f64::from(*b))
    }

    #[test]
    fn the_best_come_first_and_what_is_no_number_last() {
        let values = [0.2, f32::NAN, 0.9, f32::INFINITY, 0.9, -f32::NAN];
        assert_eq!(top(&values, 4, order), [3, 2, 4, 0]);
        assert_eq!(top(&values, 9, order), [3, 2, 4, 0, 1, 5]);
        assert_eq!(top(&values, 0, order), [0_usize; 0]);
        assert_eq!(top(&[], 3, order), [0_usize; 0]);
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let mut scores = [1000.0, 1000.0, -1000.0];
        softmax(&mut scores);
        assert_eq!(scores, [0.5, 0.5, 0.0]);
    }

    proptest! {
        #[test]
        fn the_top_are_those_that_a_whole_sort_puts_first(values in prop::collection::vec(any::<f32>(), 0..40), count in 0_usize..45) {
            let mut sorted: Vec<usize> = (0..values.len()).collect();
            sorted.sort_by(|a, b| order(&values[*a], &values[*b]));
            sorted.truncate(count);
            prop_assert_eq!(top(&values, count, order), sorted);
        }

        #[test]
        fn shares_add_up_to_one_and_keep_their_order(values in prop::collection::vec(-1e6_f32..1e6, 1..40)) {
            let mut shares = values.clone();
            softmax(&mut shares);
            prop_assert!((shares.iter().sum::<f32>() - 1.0).abs() < 1e-4);
            let pairs: Vec<_> = values.iter().zip(&shares).collect();
            for (a, b) in pairs.iter().zip(&pairs[1..]) {
                prop_assert!(b.0 <= a.0 || a.1 <= b.1);
            }
        }
    }
}
