//! One session: a run at a time, which another thread can stop.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use lineside_wire::{Limits, Tensor};
use ort::{
    session::{NoSelectedOutputs, RunOptions, SessionInputValue},
    value::DynValue,
};
use tracing::warn;

use super::{MESSAGE_CHARS_MAX, RunError, Session, Signature, Stopper, clipped, explain, inputs, outputs};

/// A session of ONNX Runtime.
pub(super) struct OnnxSession {
    session: ort::session::Session,
    signature: Signature,
    brake: Arc<Brake>,
}

impl OnnxSession {
    pub(super) fn new(session: ort::session::Session, signature: Signature) -> ort::Result<Self> {
        let brake = Brake { options: RunOptions::new()?, stopped: AtomicBool::new(false) };
        Ok(Self { session, signature, brake: Arc::new(brake) })
    }

    /// All outputs of a run, in the model's order.
    ///
    /// Also those that nobody asked for: ONNX Runtime runs every operator whatever is asked, and options that choose
    /// outputs cannot be shared with the thread that stops the run.
    fn outputs(&mut self, inputs: &[Tensor]) -> Result<Vec<DynValue>, RunError> {
        let values = inputs.iter().map(inputs::value).collect::<Result<Vec<_>, RunError>>()?;
        let expected = &self.signature.inputs;
        let in_order = expected.len() == inputs.len()
            && expected.iter().zip(inputs).all(|(spec, input)| spec.name == input.name);
        let options = &self.brake.options;
        let outputs = if in_order {
            self.session.run_with_options(values.as_slice(), options)
        } else {
            let named: Vec<(&str, SessionInputValue<'_>)> =
                inputs.iter().map(|input| input.name.as_str()).zip(values).collect();
            self.session.run_with_options(named, options)
        };
        let outputs = outputs.map_err(|error| match self.brake.stopped.load(Ordering::Acquire) {
            true => RunError::Stopped,
            false => RunError::from(error),
        })?;
        Ok(outputs.into_iter().map(|(_, value)| value).collect())
    }
}

impl Session for OnnxSession {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn stopper(&self) -> Arc<dyn Stopper> {
        Arc::clone(&self.brake) as _
    }

    fn run(&mut self, inputs: &[Tensor], wanted: &[usize]) -> Result<Vec<Tensor>, RunError> {
        let moved: Option<Vec<Tensor>> =
            inputs.iter().any(|input| inputs::aligned(input).is_some()).then(|| {
                inputs.iter().map(|input| inputs::aligned(input).unwrap_or_else(|| input.clone())).collect()
            });
        let inputs = moved.as_deref().unwrap_or(inputs);
        let mut values: Vec<Option<DynValue>> = self.outputs(inputs)?.into_iter().map(Some).collect();
        // Looked at before the first is read: what is too much is not held twice.
        let mut bytes = 0_u64;
        for index in wanted {
            let (Some(spec), Some(Some(value))) = (self.signature.outputs.get(*index), values.get(*index))
            else {
                return Err(RunError::Failed(format!("output {index} did not come")));
            };
            bytes = bytes.saturating_add(outputs::length(spec, value));
        }
        let max = Limits::default().payload_bytes_max;
        if u64::from(max) < bytes {
            return Err(RunError::TooLarge { bytes, max });
        }
        let mut tensors: Vec<Tensor> = Vec::with_capacity(wanted.len());
        for (at, index) in wanted.iter().enumerate() {
            let spec = &self.signature.outputs[*index];
            match values[*index].take() {
                Some(value) => tensors.push(outputs::tensor(spec, value, inputs)?),
                // Asked for twice.
                None => {
                    let before = wanted[..at].iter().position(|earlier| earlier == index);
                    tensors.extend(before.map(|before| tensors[before].clone()));
                }
            }
        }
        Ok(tensors)
    }
}

/// What stops a session's runs: they all look at the same flag of ONNX Runtime's, between two operators.
struct Brake {
    options: RunOptions<NoSelectedOutputs>,
    /// The same flag where it can be read. An error under it is a stop, whatever its words are.
    stopped: AtomicBool,
}

impl Stopper for Brake {
    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        if let Err(error) = self.options.terminate() {
            warn!(%error, "a run cannot be stopped");
        }
    }

    fn reset(&self) {
        if let Err(error) = self.options.unterminate() {
            warn!(%error, "a session stays stopped");
        }
        self.stopped.store(false, Ordering::Release);
    }
}

impl From<ort::Error> for RunError {
    fn from(error: ort::Error) -> Self {
        Self::Failed(clipped(&explain::explain_run(error.message()), MESSAGE_CHARS_MAX))
    }
}
