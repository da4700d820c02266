//! What the made-up nodes do with images and texts.

use std::sync::atomic::Ordering;

use lineside_client::InferCall;
use lineside_gateway::GatewayConfig;
use lineside_wire::{
    Datatype, Fault, FaultCode, ModelInfo, ModelState, ModelVersion, Parameter, Task, Tensor, bytes_elements,
    bytes_tensor,
};

use crate::gate::{Gate, config};

/// A door before a line with cameras and texts.
pub(crate) fn gate() -> Gate {
    gate_with(config())
}

pub(crate) fn gate_with(config: GatewayConfig) -> Gate {
    let gate = Gate::with(config);
    gate.line.has_tasks.store(true, Ordering::SeqCst);
    gate
}

/// `surface` judges images, `depth` only labels them; `texts` makes vectors, `wild` ones with NaN; `dumb` answers with
/// something else.
pub(crate) fn models() -> Vec<ModelInfo> {
    let model = |name: &str, tasks| ModelInfo {
        name: name.parse().unwrap(),
        version: ModelVersion(1),
        state: ModelState::Ready,
        reason: None,
        inputs: vec![],
        outputs: vec![],
        slots: 1,
        tasks,
        engine: None,
    };
    vec![
        model("depth", vec![Task::Predict]),
        model("dumb", vec![Task::Predict, Task::Embed]),
        model("surface", vec![Task::Predict]),
        model("texts", vec![Task::Embed]),
        model("wild", vec![Task::Embed]),
    ]
}

/// Outputs for a call of a task.
pub(crate) fn outputs(task: Task, call: &InferCall, inputs: &[Tensor]) -> Result<Vec<Tensor>, Fault> {
    let [input] = inputs else {
        return Err(Fault::new(FaultCode::InvalidParams, "a task has one input"));
    };
    let elements = bytes_elements(&input.bytes, input.shape.elements()).unwrap();
    match (task, call.params.model.as_str()) {
        (_, "dumb") => Ok(vec![]),
        (Task::Predict, model) => {
            assert_eq!((input.name.as_str(), elements.len()), (Task::IMAGE, 1));
            let verdict = if model == "surface" { r#", "verdict": "NOK""# } else { "" };
            let json = format!(
                r#"{{"labels": [{{"label": "scratch", "index": {}, "score": 0.910}}]{verdict}}}"#,
                elements[0].len()
            );
            let bytes = bytes_tensor([json.as_bytes()]).unwrap();
            Ok(vec![Tensor::new(Task::PREDICTION, Datatype::Bytes, vec![1], bytes.into()).unwrap()])
        }
        (Task::Embed, model) => {
            let width = match call.params.parameters.get("dimensions") {
                Some(Parameter::Integer(width)) => usize::try_from(*width).unwrap(),
                _ => 2,
            };
            // The first number is the length of the text, the rest is always the same.
            let rest = if model == "wild" { f32::NAN } else { 0.1 };
            let vector = |element: &&[u8]| {
                let mut vector = vec![rest; width];
                vector[0] = element.len() as f32;
                vector.into_iter().flat_map(f32::to_le_bytes)
            };
            let vectors: Vec<u8> = elements.iter().flat_map(vector).collect();
            let counts: Vec<u8> = elements.iter().flat_map(|_| 3_u32.to_le_bytes()).collect();
            let rows = elements.len() as u64;
            let shape = vec![rows, width as u64];
            Ok(vec![
                Tensor::new(Task::EMBEDDING, Datatype::Fp32, shape, vectors.into()).unwrap(),
                Tensor::new(Task::TOKEN_COUNT, Datatype::Uint32, vec![rows], counts.into()).unwrap(),
            ])
        }
    }
}
