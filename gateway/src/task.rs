//! Inputs that are no tensors of the model: an image, texts. The node turns them into tensors and back; the door only
//! carries them, so that limits, failover and deadlines are those of any inference.

use bytes::Bytes;
use http::StatusCode;
use lineside_client::InferCall;
use lineside_wire::{
    Datatype, Fault, FaultCode, InferParams, ModelInfo, ModelName, ModelVersion, NodeId, Parameters,
    PayloadBuilder, Task, Tensor, TensorHeader, split_tensors,
};

use crate::{
    Cluster,
    answer::Answer,
    ask::Ask,
    body::Reserved,
    errors::{Refusal, broken_answer},
    explain::Flight,
    oip::{self, ModelReady},
    shared::has_run,
};

/// What a node is asked to do with one input of BYTES.
pub(crate) struct Errand {
    pub(crate) model: ModelName,
    pub(crate) version: Option<ModelVersion>,
    pub(crate) task: Task,
    /// The name of the input.
    pub(crate) input: &'static str,
    /// How many elements it has.
    pub(crate) elements: u64,
    /// Its bytes, each element led by its length.
    pub(crate) pieces: Vec<Bytes>,
    pub(crate) parameters: Parameters,
}

/// What came back.
pub(crate) struct Done {
    pub(crate) model: ModelName,
    pub(crate) version: ModelVersion,
    outputs: Vec<Tensor>,
    room: Reserved,
    node: NodeId,
    attempts: u8,
    flight: Flight,
}

/// The model of this name, if it does this task.
///
/// # Errors
/// The cluster does not have it, it does something else, or it is not loaded, so that nobody knows what it does.
pub(crate) fn find<'a>(
    models: &'a [ModelInfo],
    name: &str,
    version: Option<&str>,
    task: Task,
) -> Result<&'a ModelInfo, Fault> {
    let model = oip::find(models, name, version)?;
    if model.tasks.contains(&task) {
        return Ok(model);
    }
    ModelReady::of(model)?;
    let section = task.as_str();
    let lacks = match task {
        Task::Predict => "takes no images: its model.toml does not say how an image becomes its input",
        Task::Embed => "takes no texts: its model.toml does not say how a text becomes its input",
    };
    let text = format!(
        "the model {} version {} {lacks}; write a section [{section}] into model.toml in the model's folder",
        model.name, model.version
    );
    Err(Fault::new(FaultCode::InvalidParams, text))
}

impl Errand {
    /// Has it done by a node, within the request's time. `room` is that of the request, given back when it is done.
    pub(crate) async fn run<C: Cluster>(self, ask: &Ask<'_, '_, C>, room: Reserved) -> Result<Done, Refusal> {
        let mut payload = PayloadBuilder::new();
        payload.push_pieces(self.pieces);
        let input = TensorHeader {
            name: self.input.to_owned(),
            datatype: Datatype::Bytes,
            shape: vec![self.elements],
            byte_length: payload.length() as u64,
        };
        let params = InferParams {
            model: self.model,
            version: self.version,
            inputs: vec![input],
            outputs: Vec::new(),
            parameters: self.parameters,
            task: Some(self.task),
            classification: Default::default(),
        };
        let call = InferCall { params, payload, deadline: ask.deadline(None), context: ask.context()? };
        let answered = ask.shared().infer(ask.cluster(), call).await;
        drop(room);
        let (reply, room) = answered.map_err(|(error, fault)| Refusal::from_call(&error, fault))?;
        let (node, attempts, flight) =
            (reply.report.node, reply.report.attempts, Flight::from(&reply.report));
        let outputs = split_tensors(reply.result.outputs, &reply.payload)
            .map_err(|fault| Refusal::from(broken_answer(node, &fault.message)).by_node(node, attempts))?;
        let (model, version) = (reply.result.model, reply.result.version);
        Ok(Done { model, version, outputs, room, node, attempts, flight })
    }
}

impl Done {
    /// The output of this name and type.
    ///
    /// # Errors
    /// The node did not send it.
    pub(crate) fn output(&self, name: &str, datatype: Datatype) -> Result<&Tensor, Fault> {
        let found = self.outputs.iter().find(|output| output.name == name && output.datatype == datatype);
        found.ok_or_else(|| self.broken(&format!("it has no output {name} of {datatype}")))
    }

    /// The fault of an answer that is not what was asked for.
    pub(crate) fn broken(&self, problem: &str) -> Fault {
        broken_answer(self.node, problem)
    }

    /// The refusal of an answer that a client cannot be given.
    pub(crate) fn refused(&self, fault: Fault) -> Refusal {
        Refusal::from(has_run(fault)).by_node(self.node, self.attempts)
    }

    /// The answer with this body, which is held as long as it is being written.
    pub(crate) fn answer(mut self, content_type: &'static str, body: Vec<u8>) -> Result<Answer, Refusal> {
        if let Err(fault) = self.room.grow(body.len()) {
            return Err(self.refused(fault));
        }
        let answer = Answer::text(StatusCode::OK, content_type, body).holding(self.room);
        let (node, attempts, flight) = (Some(self.node), Some(self.attempts), Some(self.flight));
        Ok(Answer { node, attempts, flight, ..answer })
    }
}
