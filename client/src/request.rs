//! An inference as a program writes it.

use std::time::Duration;

use futures_util::{Stream, stream};
use lineside_wire::{
    CallContext, Datatype, Fault, FaultCode, InferParams, ModelName, ModelVersion, Parameter, Parameters,
    Tensor, bytes_tensor, join_tensors,
};
use tokio::time::Instant;

use crate::{Answer, CallError, Client, Element, InferCall};

/// How long an answer is waited for when the program does not say: what a gateway allows, too.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);

/// Longest deadline: a program that says "for ever" means no longer than this, and no sum of times overflows.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// One inference that is being put together; [`InferRequest::send`] sends it.
///
/// A part that is wrong (a shape that its elements do not fill, a name that cannot name a model) is remembered, and
/// `send` gives it back as [`CallError::Refused`] without sending anything.
#[derive(Clone)]
#[must_use = "nothing is sent before `send`"]
pub struct InferRequest {
    client: Client,
    model: Option<ModelName>,
    version: Option<ModelVersion>,
    inputs: Vec<Tensor>,
    outputs: Vec<String>,
    parameters: Parameters,
    context: CallContext,
    deadline: Duration,
    /// The first thing that is wrong with it.
    wrong: Option<String>,
}

impl InferRequest {
    pub(crate) fn new(client: Client, model: &str) -> Self {
        let model = model.parse::<ModelName>();
        Self {
            client,
            wrong: model.as_ref().err().map(ToString::to_string),
            model: model.ok(),
            version: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
            parameters: Parameters::new(),
            context: CallContext::default(),
            deadline: DEADLINE_DEFAULT,
        }
    }

    /// Wants this version; without it the node's latest runs.
    pub const fn version(mut self, version: u64) -> Self {
        self.version = Some(ModelVersion(version));
        self
    }

    /// Adds an input: its elements row by row, copied once.
    pub fn input<T: Element>(self, name: &str, shape: &[u64], elements: &[T]) -> Self {
        self.add(Tensor::new(name, T::DATATYPE, shape.to_vec(), T::write(elements).into()))
    }

    /// Adds an input of texts or other bytes (the datatype BYTES).
    pub fn input_strings(self, name: &str, shape: &[u64], elements: &[impl AsRef<[u8]>]) -> Self {
        let bytes = bytes_tensor(elements.iter().map(AsRef::as_ref));
        let tensor = bytes.and_then(|bytes| Tensor::new(name, Datatype::Bytes, shape.to_vec(), bytes.into()));
        self.add(tensor)
    }

    /// Adds an input that is a tensor already; its bytes are not copied.
    pub fn tensor(mut self, tensor: Tensor) -> Self {
        self.inputs.push(tensor);
        self
    }

    fn add(mut self, tensor: Result<Tensor, lineside_wire::InvalidTensor>) -> Self {
        match tensor {
            Ok(tensor) => self.inputs.push(tensor),
            Err(error) => drop(self.wrong.get_or_insert(error.to_string())),
        }
        self
    }

    /// Wants this output, and of the others only those that are named too; without any name all come.
    pub fn output(mut self, name: &str) -> Self {
        self.outputs.push(name.to_owned());
        self
    }

    /// Adds a parameter for the node.
    pub fn parameter(mut self, name: &str, value: impl Into<ParameterValue>) -> Self {
        self.parameters.insert(name.to_owned(), value.into().0);
        self
    }

    /// How long the answer is waited for, all tries together; 10 seconds when it is not said, a day at most.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// 1 is the highest priority; 0 leaves it to the model.
    pub const fn priority(mut self, priority: u8) -> Self {
        self.context.priority = priority;
        self
    }

    /// Belongs to this session: a sequence of a model with a state, or calls that are better off at one node. It goes to
    /// the same node as all of the session, also when others have less to do, and is not repeated after it may have run.
    ///
    /// A sequence begins with the parameter `sequence_start` and ends with `sequence_end`. Give each one a name of its own.
    /// When its node is gone, the error is [`CallError::Refused`] with [`FaultCode::SequenceLost`]. A program that keeps
    /// the state itself (the parameter `sequence_state`, then the output of that name as an input) names no session: its
    /// calls go anywhere, and lose nothing with a node.
    pub fn session(mut self, session: &str) -> Self {
        self.context.session = Some(session.to_owned());
        self
    }

    /// Is drawn to one node with all calls of the same key, while that node has room: what it keeps for them in its caches is
    /// used again. A wish, unlike [`session`](Self::session): another node answers when that one is busy or gone, and
    /// the call is repeated like any other. At most 128 bytes make sense; the door passes them on with each try.
    pub fn affinity(mut self, key: &str) -> Self {
        self.context.affinity = Some(key.to_owned());
        self
    }

    /// Calls with the same key may be done once in the place of twice. No node of this release makes use of it.
    pub fn idempotency_key(mut self, key: &str) -> Self {
        self.context.idempotency_key = Some(key.to_owned());
        self
    }

    /// The W3C `traceparent` of the work that this call is part of.
    pub fn traceparent(mut self, traceparent: &str) -> Self {
        self.context.traceparent = Some(traceparent.to_owned());
        self
    }

    /// Sends the call and waits for its answer.
    ///
    /// Dropping the future cancels the call: a node drops what it has not begun. Calls whose futures are polled
    /// together are in flight together, over one connection.
    ///
    /// # Errors
    /// No member could answer in time, or the request is wrong; the error says whether the model may have run.
    pub async fn send(self) -> Result<Answer, CallError> {
        let deadline = Instant::now() + self.deadline.min(DEADLINE_MAX);
        let own = self.client.node();
        let refused = |fault| CallError::Refused { node: own, fault, attempts: 0 };
        let model = match (self.wrong, self.model) {
            (None, Some(model)) => model,
            (wrong, _) => {
                let text = wrong.unwrap_or_default();
                return Err(refused(Fault::new(FaultCode::InvalidParams, text)));
            }
        };
        let (inputs, payload) = join_tensors(&self.inputs);
        let params = InferParams {
            model,
            version: self.version,
            inputs,
            outputs: self.outputs,
            parameters: self.parameters,
            task: None,
            classification: Default::default(),
        };
        let call = InferCall { params, payload, deadline, context: self.context };
        let reply = self.client.infer_raw(call).await?;
        let (node, attempts) = (reply.report.node, reply.report.attempts);
        Answer::new(reply).map_err(|fault| CallError::Lost {
            node,
            attempts,
            reason: format!("its answer cannot be read: {}", fault.message),
        })
    }

    /// Sends the call and gives its answers as they come.
    ///
    /// Every model of this release answers once, so the stream holds one answer or one error. Dropping the stream
    /// cancels the call.
    pub fn stream(self) -> impl Stream<Item = Result<Answer, CallError>> + Send {
        stream::once(self.send())
    }
}

/// What a parameter can be: a truth value, a number or a text.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterValue(Parameter);

macro_rules! parameters {
    ($($given:ty => $variant:ident;)*) => {$(
        impl From<$given> for ParameterValue {
            fn from(value: $given) -> Self {
                Self(Parameter::$variant(value.into()))
            }
        }
    )*};
}

parameters! {
    bool => Bool;
    i32 => Integer;
    i64 => Integer;
    u64 => Unsigned;
    f64 => Number;
    &str => Text;
    String => Text;
}
