//! Answers that are given again without a run.
//!
//! The key is the SHA-256 of everything that the answer depends on; a cache belongs to one loaded version, so a new one
//! never gives an old answer. A model with a state has none: its answers depend on what came before.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use lineside_wire::{InferParams, Parameter, Tensor};

use crate::settings::Cache;

/// An answer that is larger than this part of the cache is not kept: it would drive out too many others.
const PART_OF_CACHE: u64 = 8;

/// Bytes that an answer takes beside its tensors: its key, its place in the table, and the counts by which the cache
/// knows what is asked for often.
const ENTRY_BYTES: u64 = 256;

/// Bytes that a tensor takes beside its elements and its name.
const TENSOR_BYTES: u64 = 128;

/// Most bytes of the inputs of a request that is looked for: they are hashed on the network's thread, and two megabytes
/// take about a millisecond of it.
const INPUT_BYTES_MAX: usize = 2 << 20;

/// Longest lifetime: a setting that says more means for ever.
const LIFETIME_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The hash of everything that an answer depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey([u8; 32]);

/// The answers of one version.
#[derive(Debug)]
pub(crate) struct ResponseCache {
    answers: moka::sync::Cache<CacheKey, Arc<[Tensor]>>,
    answer_bytes_max: u64,
}

impl ResponseCache {
    /// `None` where the settings want none.
    pub(crate) fn new(settings: &Cache) -> Option<Self> {
        if settings.bytes_max == 0 {
            return None;
        }
        let answers = moka::sync::Cache::builder()
            .max_capacity(settings.bytes_max)
            .weigher(|_, answer: &Arc<[Tensor]>| u32::try_from(weight(answer)).unwrap_or(u32::MAX));
        let answers = match settings.lifetime {
            Some(lifetime) => answers.time_to_live(lifetime.0.min(LIFETIME_MAX)),
            None => answers,
        };
        // A weight ends at 32 bits, so no answer may be as heavy.
        let answer_bytes_max = (settings.bytes_max / PART_OF_CACHE).min(u64::from(u32::MAX));
        Some(Self { answers: answers.build(), answer_bytes_max })
    }

    /// The key of a request. What names the model and its version is not in it. `None` for one that is too large.
    pub(crate) fn key(&self, params: &InferParams, inputs: &[Tensor]) -> Option<CacheKey> {
        let bytes: usize = inputs.iter().map(|input| input.bytes.len()).sum();
        if INPUT_BYTES_MAX < bytes {
            return None;
        }
        let InferParams { model: _, version: _, inputs: _, outputs, parameters, task, classification } =
            params;
        let mut hash = Hash(Context::new(&SHA256));
        hash.list(outputs.iter(), |hash, output| hash.bytes(output.as_bytes()));
        hash.list(parameters.iter(), |hash, (name, value)| {
            hash.bytes(name.as_bytes());
            hash.parameter(value);
        });
        hash.bytes(task.map_or("", |task| task.as_str()).as_bytes());
        hash.list(classification.iter(), |hash, (output, count)| {
            hash.bytes(output.as_bytes());
            hash.number(u64::from(*count));
        });
        // The order in which inputs are sent changes no answer.
        let mut inputs: Vec<_> = inputs.iter().collect();
        inputs.sort_unstable_by_key(|input| input.name.as_str());
        hash.list(inputs.into_iter(), |hash, Tensor { name, datatype, shape, bytes }| {
            hash.bytes(name.as_bytes());
            hash.bytes(datatype.as_str().as_bytes());
            hash.list(shape.dims().iter(), |hash, dim| hash.number(*dim));
            hash.bytes(bytes);
        });
        Some(hash.finish())
    }

    /// The answer to a request like this one.
    pub(crate) fn get(&self, key: &CacheKey) -> Option<Vec<Tensor>> {
        self.answers.get(key).map(|answer| answer.to_vec())
    }

    /// Keeps an answer for the next request like this one.
    ///
    /// Its bytes are copied: those of an answer may be a few rows of what many requests were answered with, or memory
    /// of the engine, and would hold all of it as long as the answer is kept.
    pub(crate) fn put(&self, key: CacheKey, outputs: &[Tensor]) {
        if self.answer_bytes_max < weight(outputs) {
            return;
        }
        let copied =
            |output: &Tensor| Tensor { bytes: Bytes::copy_from_slice(&output.bytes), ..output.clone() };
        self.answers.insert(key, outputs.iter().map(copied).collect());
        // The cache tidies up by itself, but only now and then: a burst of answers would pass the bound until then.
        self.answers.run_pending_tasks();
    }
}

/// Bytes that an answer takes in the cache.
fn weight(outputs: &[Tensor]) -> u64 {
    let one = |output: &Tensor| output.bytes.len() as u64 + output.name.len() as u64 + TENSOR_BYTES;
    outputs.iter().map(one).sum::<u64>() + ENTRY_BYTES
}

/// Hashes parts, each with its length, so that no two lists of parts give the same bytes.
struct Hash(Context);

impl Hash {
    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn list<T>(&mut self, items: impl ExactSizeIterator<Item = T>, mut add: impl FnMut(&mut Self, T)) {
        self.number(items.len() as u64);
        items.for_each(|item| add(self, item));
    }

    /// The kind is part of it: 1 and 1.0 may mean different things to a task.
    fn parameter(&mut self, value: &Parameter) {
        match value {
            Parameter::Bool(value) => self.tagged(0, &[u8::from(*value)]),
            Parameter::Integer(value) => self.tagged(1, &value.to_le_bytes()),
            Parameter::Unsigned(value) => self.tagged(2, &value.to_le_bytes()),
            Parameter::Number(value) => self.tagged(3, &value.to_bits().to_le_bytes()),
            Parameter::Text(value) => self.tagged(4, value.as_bytes()),
        }
    }

    fn tagged(&mut self, kind: u64, bytes: &[u8]) {
        self.number(kind);
        self.bytes(bytes);
    }

    fn finish(self) -> CacheKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.finish().as_ref());
        CacheKey(key)
    }
}
