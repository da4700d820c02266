//! What is the same request, and how much is kept.

use lineside_wire::{Datatype, Parameters, Task};
use proptest::prelude::*;

use super::*;
use crate::settings::Span;

fn cache(bytes_max: u64) -> ResponseCache {
    ResponseCache::new(&Cache { bytes_max, lifetime: None }).unwrap()
}

fn params() -> InferParams {
    InferParams {
        model: "camera".parse().unwrap(),
        version: None,
        inputs: Vec::new(),
        outputs: Vec::new(),
        parameters: Parameters::new(),
        task: None,
        classification: Default::default(),
    }
}

fn tensor(name: &str, bytes: &[u8]) -> Tensor {
    let bytes = Bytes::copy_from_slice(bytes);
    Tensor::new(name, Datatype::Uint8, vec![bytes.len() as u64], bytes).unwrap()
}

fn key(change: impl FnOnce(&mut InferParams, &mut Vec<Tensor>)) -> CacheKey {
    let (mut params, mut inputs) = (params(), vec![tensor("a", &[1, 2]), tensor("b", &[3])]);
    change(&mut params, &mut inputs);
    cache(1 << 20).key(&params, &inputs).expect("a small request has a key")
}

#[test]
fn everything_that_changes_an_answer_changes_the_key() {
    let keys = [
        key(|_, _| {}),
        key(|params, _| params.outputs = vec!["y".to_owned()]),
        key(|params, _| params.outputs = vec!["y".to_owned(), "z".to_owned()]),
        // Outputs come in the order in which they are asked for.
        key(|params, _| params.outputs = vec!["z".to_owned(), "y".to_owned()]),
        key(|params, _| params.outputs = vec!["yz".to_owned()]),
        key(|params, _| drop(params.parameters.insert("top_k".to_owned(), Parameter::Integer(1)))),
        key(|params, _| drop(params.parameters.insert("top_k".to_owned(), Parameter::Unsigned(1)))),
        key(|params, _| drop(params.parameters.insert("top_k".to_owned(), Parameter::Number(1.0)))),
        key(|params, _| drop(params.parameters.insert("top_k".to_owned(), Parameter::Bool(true)))),
        key(|params, _| drop(params.parameters.insert("top_k".to_owned(), Parameter::Text("1".to_owned())))),
        key(|params, _| params.task = Some(Task::Predict)),
        key(|params, _| params.classification = [("y".to_owned(), 1)].into()),
        key(|params, _| params.classification = [("y".to_owned(), 2)].into()),
        key(|_, inputs| inputs[0] = tensor("a", &[1, 3])),
        key(|_, inputs| inputs[0] = tensor("c", &[1, 2])),
        key(|_, inputs| drop(inputs.pop())),
        key(|_, inputs| inputs[0].datatype = Datatype::Int8),
        key(|_, inputs| inputs[0].shape = lineside_wire::Shape::new(vec![2, 1]).unwrap()),
        // Bytes that move from one tensor to the next.
        key(|_, inputs| *inputs = vec![tensor("a", &[1]), tensor("b", &[2, 3])]),
    ];
    for (i, one) in keys.iter().enumerate() {
        assert!(!keys[i + 1..].contains(one), "{i}");
    }
}

#[test]
fn a_large_request_has_no_key() {
    let fits = tensor("a", &vec![0; INPUT_BYTES_MAX]);
    assert!(cache(1 << 20).key(&params(), std::slice::from_ref(&fits)).is_some());
    assert_eq!(cache(1 << 20).key(&params(), &[fits, tensor("b", &[1])]), None);
}

#[test]
fn what_changes_no_answer_changes_no_key() {
    let plain = key(|_, _| {});
    assert_eq!(key(|_, inputs| inputs.reverse()), plain);
    // A cache is one version's.
    assert_eq!(key(|params, _| params.version = Some(lineside_wire::ModelVersion(3))), plain);
}

#[test]
fn an_answer_is_given_again_as_it_was_and_holds_nothing_else() {
    let cache = cache(1 << 20);
    let one = key(|_, _| {});
    assert_eq!(cache.get(&one), None);
    // The rows of two requests, in one piece of memory.
    let joined = Bytes::from(vec![7; 4]);
    let mine = Tensor::new("y", Datatype::Uint8, vec![2], joined.slice(..2)).unwrap();
    cache.put(one, std::slice::from_ref(&mine));
    drop(mine);
    assert!(joined.is_unique(), "the cache holds a copy");
    let again = cache.get(&one).unwrap();
    assert_eq!(again, [tensor("y", &[7, 7])]);
    assert_eq!(cache.get(&key(|_, inputs| inputs[0] = tensor("a", &[9]))), None);
}

#[test]
fn an_answer_that_would_drive_out_many_is_not_kept() {
    let cache = cache(8_000);
    let one = key(|_, _| {});
    cache.put(one, &[tensor("y", &[0; 1_000])]);
    assert_eq!(cache.get(&one), None);
    cache.put(one, &[tensor("y", &[0; 500])]);
    assert!(cache.get(&one).is_some());
}

#[test]
fn an_answer_is_kept_no_longer_than_its_lifetime() {
    let lifetime = Some(Span(Duration::from_nanos(1)));
    let cache = ResponseCache::new(&Cache { bytes_max: 1 << 20, lifetime }).unwrap();
    let one = key(|_, _| {});
    cache.put(one, &[tensor("y", &[7])]);
    let gone = (0..1_000_000).any(|_| cache.get(&one).is_none());
    assert!(gone);
    // As long as anybody can write it down.
    let lifetime = Some(Span(Duration::from_secs(u64::MAX)));
    assert!(ResponseCache::new(&Cache { bytes_max: 1, lifetime }).is_some());
}

#[test]
fn without_bytes_there_is_no_cache() {
    assert!(ResponseCache::new(&Cache::default()).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn it_never_holds_more_than_it_may(answers in prop::collection::vec((any::<u8>(), 0..900_usize), 1..100)) {
        let cache = cache(8_000);
        for (which, length) in answers {
            let one = key(|_, inputs| inputs[0] = tensor("a", &[which]));
            cache.put(one, &[tensor("y", &vec![which; length])]);
            prop_assert!(cache.answers.weighted_size() <= 8_000);
            if let Some(answer) = cache.get(&one) {
                prop_assert!(answer[0].bytes.iter().all(|byte| *byte == which));
            }
        }
    }
}
