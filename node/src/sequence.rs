//! State between the requests of a sequence: which there is, for how long, and how much of it.
//!
//! A model whose settings name state inputs and outputs is called without them: the node puts the state of the request's
//! sequence in, and keeps what comes out for the next one. A caller can also keep the state itself
//! ([`STATE`]): then any node can go on, and nothing is lost with a machine.
//!
//! ```text
//!   request ─> step (whose state?) ─> line: one request of a sequence at a time ─> begin ─> run ─> keep ─> answer
//!                                                                                    └─ failed, stopped ─> as before
//! ```
//!
//! A request whose run fails or is stopped leaves its sequence as it was, also when it was to begin anew: it is as if it
//! had never come. A sequence belongs to one loaded version: the state of one network means nothing to the next, so a
//! version that takes another's place begins without any, and callers are told that theirs is lost.

mod begun;
mod handle;
mod kind;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lineside_wire::{
    CallContext, Datatype, Fault, FaultCode, InferParams, ModelName, Parameter, Tensor, TensorSpec,
};
use tokio::time::Instant;

use crate::{
    check::{ShapeLimits, check_brought},
    engine::{Signature, clipped},
    settings::{Settings, Wrong},
};
use handle::Handles;
use kind::{Kind, fits};

pub(crate) use begun::Begun;
use begun::HANDLE_BYTES_MAX;

/// Parameter that begins a sequence.
pub(crate) const START: &str = "sequence_start";
/// Parameter that ends one.
pub(crate) const END: &str = "sequence_end";
/// Parameter that asks for the state, output that carries it (one element of BYTES), and input that brings it back.
pub(crate) const STATE: &str = "sequence_state";

/// Bytes of all states that one version keeps: a thousand sequences of 256 KiB, which is a hundred times what models of
/// sound take. Past it no sequence grows and none begins.
const STATES_BYTES_MAX: u64 = 256 << 20;

/// Longest name of a sequence, in bytes: the node holds it as long as the sequence.
const ID_BYTES_MAX: usize = 256;

/// Characters of a sequence's name in a message.
const ID_CHARS_SHOWN: usize = 64;

/// Shortest time between two searches for idle sequences: a search looks at all of them.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// When sequences are looked at that are never idle for too long, by a clock that ends before that.
const LOOK_FAR: Duration = Duration::from_secs(24 * 60 * 60);

/// The sequences of one version.
#[derive(Debug)]
pub(crate) struct Sequences {
    states: Vec<Kind>,
    /// Where each of the model's inputs comes from.
    inputs: Vec<Feed>,
    /// The model's outputs that callers see.
    outputs: Vec<usize>,
    handles: Handles,
    /// Of states that callers bring.
    limits: ShapeLimits,
    idle_max: Duration,
    max: usize,
    kept: Mutex<Kept>,
}

/// Where an input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feed {
    /// The next of the caller's.
    Caller,
    /// This state.
    State(usize),
}

#[derive(Debug, Default)]
struct Kept {
    sequences: HashMap<Arc<str>, One>,
    bytes: u64,
    /// When idle ones were last searched for.
    looked: Option<Instant>,
}

/// One sequence.
#[derive(Debug)]
struct One {
    /// `None` while the request that begins it runs.
    states: Option<Vec<Tensor>>,
    bytes: u64,
    used: Instant,
    /// Whether a request of it runs. It does not become idle meanwhile.
    runs: bool,
}

/// What one request does with its sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The sequence, where the node keeps its state.
    pub(crate) id: Option<Arc<str>>,
    pub(crate) start: bool,
    pub(crate) end: bool,
    /// The state that the caller brought.
    pub(crate) brought: Option<Vec<Tensor>>,
    /// Whether the caller wants the next one.
    pub(crate) wants_state: bool,
}

impl Sequences {
    /// What these settings make of a model with this signature, whose files have this hash; `None` without a state.
    ///
    /// # Errors
    /// They do not fit it, or each other.
    pub(crate) fn new(
        settings: &Settings,
        signature: &Signature,
        sha256: &str,
    ) -> Result<Option<Self>, Wrong> {
        let Some(sequence) = &settings.sequence else { return Ok(None) };
        check(settings, signature)?;
        let mut states: Vec<Kind> = Vec::with_capacity(sequence.states.len());
        for state in &sequence.states {
            let kind = Kind::new(state, signature)?;
            let is_twice = |other: &Kind| other.input.name == kind.input.name || other.output == kind.output;
            if states.iter().any(is_twice) {
                let reason = format!("{:?} and {:?}: one of them is there twice", state.input, state.output);
                return Err(Wrong::new("sequence.states", reason));
            }
            states.push(kind);
        }
        let from = |spec: &TensorSpec| {
            states.iter().position(|kind| kind.input.name == spec.name).map_or(Feed::Caller, Feed::State)
        };
        let visible = |index: &usize| !states.iter().any(|kind| kind.output == *index);
        Ok(Some(Self {
            inputs: signature.inputs.iter().map(from).collect(),
            outputs: (0..signature.outputs.len()).filter(visible).collect(),
            limits: ShapeLimits::new(&settings.limits, states.iter().map(|kind| &kind.input)),
            handles: Handles::new(sha256, states.iter().map(|kind| (&kind.input, kind.output))),
            states,
            idle_max: sequence.idle_timeout.0,
            max: usize::try_from(sequence.max).unwrap_or(usize::MAX),
            kept: Mutex::default(),
        }))
    }

    /// The signature without the state: what callers send and get.
    pub(crate) fn visible(&self, signature: &Signature) -> Signature {
        let inputs = signature.inputs.iter().zip(&self.inputs);
        let inputs = inputs.filter(|(_, from)| **from == Feed::Caller).map(|(spec, _)| spec.clone());
        let outputs = self.outputs.iter().filter_map(|index| signature.outputs.get(*index).cloned());
        Signature { inputs: inputs.collect(), outputs: outputs.collect() }
    }

    /// What a request asks for. Takes the state that it brings out of `given`, and keeps its sequence from becoming
    /// idle while it waits.
    ///
    /// # Errors
    /// No sequence is named, or what is brought is no state of this model.
    pub(crate) fn step(
        &self,
        context: &CallContext,
        params: &InferParams,
        given: &mut Vec<Tensor>,
        now: Instant,
    ) -> Result<Step, Fault> {
        let (start, end) = (flag(params, START)?.unwrap_or(false), flag(params, END)?.unwrap_or(false));
        let brought = given.iter().position(|tensor| tensor.name == STATE).map(|at| given.remove(at));
        let brought = brought.map(|tensor| self.opened(&params.model, &tensor)).transpose()?;
        let id = context.session.as_deref().filter(|id| !id.is_empty());
        let is_callers = id.is_none() && !end;
        let wants_state = flag(params, STATE)?.unwrap_or(brought.is_some() && is_callers);
        let model = &params.model;
        match (id, &brought) {
            (Some(id), _) if ID_BYTES_MAX < id.len() => {
                return Err(invalid(format!(
                    "the sequence's name has {} bytes: at most {ID_BYTES_MAX} are taken",
                    id.len()
                )));
            }
            (Some(_), Some(_)) if !start => {
                return Err(invalid(format!(
                    "the input {STATE} begins a sequence or takes its place: add {START}, or leave the sequence's \
                     name out and keep the state yourself"
                )));
            }
            (None, None) if !start || (is_callers && !wants_state) => {
                return Err(invalid(format!(
                    "{model} has a state between requests: name the sequence (sequence_id) and begin it with {START}; \
                     or keep the state yourself: send {START} and {STATE}: true, and bring the output {STATE} back \
                     as an input of that name"
                )));
            }
            (Some(_) | None, _) => {}
        }
        if let Some(id) = id {
            let mut kept = self.kept();
            let waits = kept.sequences.get_mut(id).filter(|one| !one.is_idle(self.idle_max, now));
            waits.into_iter().for_each(|one| one.used = now);
        }
        Ok(Step { id: id.map(Arc::from), start, end, brought, wants_state })
    }

    /// The state on which a request runs now.
    ///
    /// # Errors
    /// The sequence is not known (`SequenceLost`), or there is no room for a new one (`Busy`). Nothing was run.
    pub(crate) fn begin(&self, step: &Step, now: Instant) -> Result<Begun<'_>, Fault> {
        let first = || {
            let first = || self.states.iter().map(|kind| kind.first.clone()).collect();
            step.brought.clone().unwrap_or_else(first)
        };
        let states = match &step.id {
            None => first(),
            Some(id) => {
                let mut kept = self.kept();
                if kept.looked.is_none_or(|looked| LOOK_PAUSE <= now.saturating_duration_since(looked)) {
                    kept.forget_idle(self.idle_max, now);
                }
                match kept.sequences.get_mut(id) {
                    Some(one) if one.runs => return Err(still_runs(id)),
                    Some(one) if step.start || !one.is_idle(self.idle_max, now) => {
                        (one.runs, one.used) = (true, now);
                        let known = one.states.clone().filter(|_| !step.start);
                        known.unwrap_or_else(first)
                    }
                    Some(_) | None if !step.start => return Err(self.lost(id)),
                    Some(_) | None => {
                        self.make_room(&mut kept, now)?;
                        let one = One { states: None, bytes: 0, used: now, runs: true };
                        kept.sequences.insert(Arc::clone(id), one);
                        first()
                    }
                }
            }
        };
        let (end, wants_state) = (step.end, step.wants_state);
        Ok(Begun { sequences: self, id: step.id.clone(), end, wants_state, states })
    }

    /// Forgets the sequences that were idle for too long; gives the time of the next look, while there are any.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        let mut kept = self.kept();
        if let Some(looked) = kept.looked.filter(|looked| now < *looked + LOOK_PAUSE) {
            return (!kept.sequences.is_empty()).then(|| looked + LOOK_PAUSE);
        }
        kept.forget_idle(self.idle_max, now);
        let first = kept.sequences.values().map(|one| one.used).min()?;
        // One that runs for longer than it may be idle is looked at again and again, with pauses.
        let due = first.checked_add(self.idle_max).unwrap_or(now + LOOK_FAR);
        Some(due.max(now) + LOOK_PAUSE)
    }

    /// Forgets all of them, those whose request runs now included: it is answered, and leaves nothing behind.
    pub(crate) fn forget(&self) {
        let mut kept = self.kept();
        (kept.sequences, kept.bytes) = (HashMap::new(), 0);
    }

    fn make_room(&self, kept: &mut Kept, now: Instant) -> Result<(), Fault> {
        let is_full = |kept: &Kept| self.max <= kept.sequences.len() || STATES_BYTES_MAX <= kept.bytes;
        if is_full(kept) {
            kept.forget_idle(self.idle_max, now);
        }
        if !is_full(kept) {
            return Ok(());
        }
        let idle = kept.sequences.values().filter(|one| !one.runs);
        let longest = idle.map(|one| now.saturating_duration_since(one.used)).max().unwrap_or_default();
        let wait = self.idle_max.saturating_sub(longest).as_millis();
        let wait = u64::try_from(wait).unwrap_or(u64::MAX).max(1);
        let text = match kept.sequences.len() < self.max {
            true => {
                format!("the states of this node's sequences take the {STATES_BYTES_MAX} bytes that they may")
            }
            false => format!("this node has the {} sequences that it may have (sequence.max)", self.max),
        };
        let text =
            format!("{text}; the next one that is idle is forgotten in {wait} ms, or end one with {END}");
        Err(Fault::new(FaultCode::Busy, text).retry_after_ms(wait))
    }

    fn lost(&self, id: &str) -> Fault {
        let id = clipped(id, ID_CHARS_SHOWN);
        Fault::new(
            FaultCode::SequenceLost,
            format!(
                "the state of the sequence {id:?} is not on this node: its node is gone, it was idle for more than \
                 {:?}, the model was loaded anew, or it never began; begin it again with {START}",
                self.idle_max
            ),
        )
    }

    /// The state that a caller brings.
    fn opened(&self, model: &ModelName, brought: &Tensor) -> Result<Vec<Tensor>, Fault> {
        let is_one = brought.datatype == Datatype::Bytes && brought.shape.elements() == 1;
        // One element is its length in four bytes and then itself.
        let Some(text) = brought.bytes.get(4..).filter(|_| is_one) else {
            return Err(invalid(format!("the input {STATE} is one element of BYTES: send it as it came")));
        };
        if HANDLE_BYTES_MAX < text.len() as u64 / 4 * 3 {
            return Err(invalid(format!("the input {STATE} is longer than any that was given out")));
        }
        let states = self.handles.open(text, self.states.iter().map(|kind| &kind.input));
        let states = states.map_err(|error| invalid(format!("the input {STATE} {error}")))?;
        // Anybody can make one up: it may be no more than the model's own input could.
        let specs = self.states.iter().map(|kind| &kind.input);
        check_brought(model, specs, &self.limits, &states).map_err(|fault| {
            let message = format!("the input {STATE} does not fit: {}", fault.message);
            Fault { message, ..fault }
        })?;
        Ok(states)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn forget_idle(&mut self, idle_max: Duration, now: Instant) {
        self.looked = Some(now);
        let bytes = &mut self.bytes;
        self.sequences.retain(|_, one| {
            let stays = !one.is_idle(idle_max, now);
            *bytes -= if stays { 0 } else { one.bytes };
            stays
        });
    }
}

impl One {
    fn is_idle(&self, idle_max: Duration, now: Instant) -> bool {
        !self.runs && idle_max < now.saturating_duration_since(self.used)
    }
}

/// Whether the settings can be meant.
fn check(settings: &Settings, signature: &Signature) -> Result<(), Wrong> {
    let Some(sequence) = &settings.sequence else { return Ok(()) };
    if sequence.states.is_empty() {
        let reason = "no state is named: write states = [{ input = \"...\", output = \"...\" }]";
        return Err(Wrong::new("sequence.states", reason));
    }
    if sequence.max == 0 {
        return Err(Wrong::new("sequence.max", "0 sequences could never begin: allow at least 1"));
    }
    if sequence.idle_timeout.0.is_zero() {
        return Err(Wrong::new("sequence.idle_timeout", "a sequence would be gone at once: write \"60s\""));
    }
    if settings.predict.is_some() || settings.embed.is_some() {
        let reason = "a model with a state takes its own tensors alone: leave out [predict] and [embed]";
        return Err(Wrong::new("sequence", reason));
    }
    if settings.cache.bytes_max != 0 {
        let reason = "a model with a state gives other answers to the same inputs: leave it out";
        return Err(Wrong::new("cache.bytes_max", reason));
    }
    let mut specs = signature.inputs.iter().chain(&signature.outputs);
    if specs.any(|spec| spec.name == STATE) {
        let reason = format!("the model has a tensor {STATE:?}, the name under which callers keep the state");
        return Err(Wrong::new("sequence", reason));
    }
    Ok(())
}

/// A parameter that is true or false.
fn flag(params: &InferParams, name: &str) -> Result<Option<bool>, Fault> {
    match params.parameters.get(name) {
        None => Ok(None),
        Some(Parameter::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(invalid(format!("the parameter {name} is true or false"))),
    }
}

fn still_runs(id: &str) -> Fault {
    let id = clipped(id, ID_CHARS_SHOWN);
    Fault::new(FaultCode::Busy, format!("the request before of the sequence {id:?} still runs"))
        .retry_after_ms(1)
}

fn invalid(text: String) -> Fault {
    Fault::new(FaultCode::InvalidParams, text)
}
