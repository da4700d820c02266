//! One vector per text. Pure.

use crate::settings::Pooling;

/// Makes one vector of those of a text's tokens, which lie one after the other, `width` elements each.
pub(crate) fn pool(vectors: &[f32], width: usize, how: Pooling) -> Vec<f32> {
    let mut rows = vectors.chunks_exact(width.max(1));
    let count = rows.len().max(1) as f64;
    match how {
        Pooling::Mean => {
            let mut sums = vec![0.0_f64; width];
            for row in rows {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            sums.into_iter().map(|sum| (sum / count) as f32).collect()
        }
        Pooling::Max => {
            let mut largest = vec![f32::NEG_INFINITY; width];
            for row in rows {
                // What is no number stays one, so that it is not passed over.
                let larger = |a: f32, b: f32| if b.is_nan() || a < b { b } else { a };
                largest.iter_mut().zip(row).for_each(|(most, value)| *most = larger(*most, *value));
            }
            largest
        }
        Pooling::Cls | Pooling::None => rows.next().map(<[f32]>::to_vec).unwrap_or_default(),
    }
}

/// Brings a vector to length 1; one of length 0 stays.
pub(crate) fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if 0.0 < length {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
}

/// Which texts run together: lists of their numbers, of at most `rows` texts and of `tokens` tokens with the filling to
/// the longest, unless one text has more. `alike` puts only texts of one length together.
///
/// Shortest first, so that little is filled.
pub(crate) fn groups(lengths: &[usize], rows: usize, tokens: usize, alike: bool) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|at| lengths[*at]);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for at in order {
        let fits = groups.last().is_some_and(|group| {
            let same = !alike || group.first().is_none_or(|first| lengths[*first] == lengths[at]);
            same && group.len() < rows && (group.len() + 1) * lengths[at] <= tokens
        });
        match groups.last_mut().filter(|_| fits) {
            Some(group) => group.push(at),
            None => groups.push(vec![at]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn three_ways_make_one_vector_of_many() {
        let vectors = [1.0, 8.0, 3.0, 2.0, 5.0, 2.0];
        assert_eq!(pool(&vectors, 2, Pooling::Mean), [3.0, 4.0]);
        assert_eq!(pool(&vectors, 2, Pooling::Max), [5.0, 8.0]);
        assert_eq!(pool(&vectors, 2, Pooling::Cls), [1.0, 8.0]);
        assert!(pool(&[f32::NAN, 1.0], 1, Pooling::Max)[0].is_nan());
        assert!(pool(&[1.0, f32::NAN], 1, Pooling::Max)[0].is_nan());
    }

    #[test]
    fn a_vector_of_no_length_stays() {
        let (mut some, mut none) = ([3.0, 4.0], [0.0, 0.0]);
        normalize(&mut some);
        normalize(&mut none);
        assert_eq!((some, none), ([0.6, 0.8], [0.0, 0.0]));
    }

    proptest! {
        #[test]
        fn every_text_runs_once_and_no_run_is_too_large(
            lengths in prop::collection::vec(1_usize..50, 0..60), rows in 1_usize..9, tokens in 1_usize..120, alike: bool,
        ) {
            let groups = groups(&lengths, rows, tokens, alike);
            let mut all = groups.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            for group in groups {
                let longest = group.iter().map(|at| lengths[*at]).max().unwrap();
                prop_assert!(group.len() <= rows && (group.len() == 1 || group.len() * longest <= tokens));
                prop_assert!(!alike || group.iter().all(|at| lengths[*at] == longest));
            }
        }

        #[test]
        fn a_normal_vector_has_the_length_one(mut vector in prop::collection::vec(-1e3_f32..1e3, 1..20)) {
            prop_assume!(vector.iter().any(|value| 1e-3 < value.abs()));
            normalize(&mut vector);
            prop_assert!((vector.iter().map(|value| value * value).sum::<f32>() - 1.0).abs() < 1e-3);
        }
    }
}
