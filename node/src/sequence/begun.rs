//! A request that runs, and the state that it runs on.

use std::sync::Arc;

use lineside_wire::{Datatype, Executed, Fault, FaultCode, Tensor, bytes_tensor};
use tokio::time::Instant;

use super::{END, Feed, One, STATE, STATES_BYTES_MAX, Sequences, fits};
use crate::{check::Fitting, task::Request};

/// Bytes of a state that a caller keeps, with all that belongs to it. It travels with every request and every answer, and
/// is opened on the network's thread, which takes some two milliseconds a megabyte. What is larger is for the node to
/// keep.
pub(super) const HANDLE_BYTES_MAX: u64 = 4 << 20;

/// Bytes of a handle beside the states: its head, and dimensions and length of each.
const HANDLE_HEAD_BYTES: u64 = 64 + 256 * 80;

/// A request that runs, and the state that it runs on. Dropped before [`Begun::keep`], the sequence stays as it was.
#[derive(Debug)]
pub(crate) struct Begun<'a> {
    pub(super) sequences: &'a Sequences,
    pub(super) id: Option<Arc<str>>,
    pub(super) end: bool,
    pub(super) wants_state: bool,
    pub(super) states: Vec<Tensor>,
}

impl Begun<'_> {
    /// The request as the model takes it: with the state, and with the state's outputs behind those that are wanted.
    pub(crate) fn around(&self, request: &Request) -> Option<Request> {
        // A model with a state has no tasks: its settings are refused at load.
        let Request::Tensors { fitting, classes, rows } = request else { return None };
        let mut given = fitting.inputs.iter();
        let inputs = self.sequences.inputs.iter().filter_map(|from| match from {
            Feed::Caller => given.next(),
            Feed::State(index) => self.states.get(*index),
        });
        let inputs = inputs.cloned().collect();
        let wanted = fitting.wanted.iter().filter_map(|index| self.sequences.outputs.get(*index)).copied();
        let wanted = wanted.chain(self.sequences.states.iter().map(|kind| kind.output)).collect();
        let mut classes = classes.clone();
        classes.resize(classes.len() + self.sequences.states.len(), None);
        Some(Request::Tensors { fitting: Fitting { inputs, wanted }, classes, rows: *rows })
    }

    /// Keeps the state that came out, and gives what the caller is to get: the outputs without it, and with the state
    /// for the caller where that is wanted.
    ///
    /// # Errors
    /// The state cannot be kept; the model ran, and the sequence stays as it was.
    pub(crate) fn keep(mut self, mut outputs: Vec<Tensor>, now: Instant) -> Result<Vec<Tensor>, Fault> {
        let kinds = &self.sequences.states;
        let states = outputs.split_off(outputs.len().saturating_sub(kinds.len()));
        for (kind, state) in kinds.iter().zip(&states) {
            if !fits(&kind.input, &state.shape) {
                let (name, takes, dims) = (&kind.input.name, &kind.input.shape, state.shape.dims());
                let text = format!(
                    "the model gave a state of the shape {dims:?}, which its input {name:?} of {takes:?} cannot take"
                );
                return Err(Fault::new(FaultCode::InferenceFailed, text));
            }
        }
        let named =
            kinds.iter().zip(states).map(|(kind, state)| Tensor { name: kind.input.name.clone(), ..state });
        let states: Vec<_> = named.collect();
        let bytes = states.iter().map(|state| state.bytes.len() as u64).sum();
        if self.wants_state {
            let max = HANDLE_BYTES_MAX - HANDLE_HEAD_BYTES;
            if max < bytes {
                let text = format!(
                    "the state has {bytes} bytes: a caller can keep {max}; name a sequence, and the node keeps it"
                );
                return Err(has_run(text));
            }
            outputs.push(handed(&self.sequences.handles.seal(&states))?);
        }
        self.settle(states, bytes, now)?;
        Ok(outputs)
    }

    fn settle(&mut self, states: Vec<Tensor>, bytes: u64, now: Instant) -> Result<(), Fault> {
        let Some(id) = &self.id else { return Ok(()) };
        let mut kept = self.sequences.kept();
        let kept = &mut *kept;
        let Some(one) = kept.sequences.get_mut(id) else { return Ok(()) };
        let others = kept.bytes - one.bytes;
        if self.end {
            kept.sequences.remove(id);
            kept.bytes = others;
            // What begins under its name from now on is another one's.
            self.id = None;
            return Ok(());
        }
        if STATES_BYTES_MAX < others.saturating_add(bytes) {
            let text = format!(
                "the states of this node's sequences would take more than {STATES_BYTES_MAX} bytes: end some with {END}"
            );
            return Err(has_run(text));
        }
        kept.bytes = others + bytes;
        *one = One { states: Some(states), bytes, used: now, runs: true };
        Ok(())
    }
}

impl Drop for Begun<'_> {
    /// The next request may run. What was to begin and did not is forgotten.
    fn drop(&mut self) {
        let Some(id) = &self.id else { return };
        let mut kept = self.sequences.kept();
        let Some(one) = kept.sequences.get_mut(id) else { return };
        one.runs = false;
        if one.states.is_none() {
            kept.sequences.remove(id);
        }
    }
}

/// The state as the caller gets it.
fn handed(handle: &str) -> Result<Tensor, Fault> {
    let bytes = bytes_tensor([handle.as_bytes()]);
    let tensor = bytes.and_then(|bytes| Tensor::new(STATE, Datatype::Bytes, vec![1], bytes.into()));
    tensor.map_err(|error| has_run(error.to_string()))
}

fn has_run(text: String) -> Fault {
    Fault { executed: Executed::Yes, ..Fault::new(FaultCode::LimitExceeded, text) }
}
