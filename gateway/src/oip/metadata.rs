//! What the server and its models say of themselves.

use lineside_wire::{Fault, FaultCode, ModelInfo, ModelState, ModelVersion, TensorSpec};
use serde::Serialize;

use crate::errors::{unknown_model, unknown_version};

/// The extensions of the protocol that are served, by Triton's names.
pub(crate) const EXTENSIONS: &[&str] = &[
    "binary_tensor_data",
    "classification",
    "generate",
    "logging",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "sequence",
    "statistics",
];

/// `GET /v2`.
#[derive(Serialize)]
pub(crate) struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: &'static [&'static str],
}

impl Default for ServerMetadata {
    fn default() -> Self {
        Self { name: "lineside", version: env!("CARGO_PKG_VERSION"), extensions: EXTENSIONS }
    }
}

/// `GET /v2/models/{model}`.
#[derive(Serialize)]
pub(crate) struct ModelMetadata<'a> {
    pub(crate) name: &'a str,
    pub(crate) versions: Vec<ModelVersion>,
    pub(crate) platform: &'static str,
    pub(crate) inputs: &'a [TensorSpec],
    pub(crate) outputs: &'a [TensorSpec],
}

impl<'a> ModelMetadata<'a> {
    /// The metadata of `model`, with the versions that the cluster has of it.
    ///
    /// # Errors
    /// No node has loaded it yet, so that nobody knows its inputs.
    pub(crate) fn of(model: &'a ModelInfo, all: &[ModelInfo]) -> Result<Self, Fault> {
        if model.state != ModelState::Ready && model.inputs.is_empty() && model.outputs.is_empty() {
            return Err(not_ready(model));
        }
        let versions = all.iter().filter(|other| other.name == model.name).map(|other| other.version);
        Ok(Self {
            name: model.name.as_str(),
            versions: versions.collect(),
            platform: "onnx_onnxv1",
            inputs: &model.inputs,
            outputs: &model.outputs,
        })
    }
}

/// `GET /v2/models/{model}/ready` of one that is.
#[derive(Serialize)]
pub(crate) struct ModelReady<'a> {
    name: &'a str,
    ready: bool,
}

impl<'a> ModelReady<'a> {
    /// # Errors
    /// It is not; the text says why.
    pub(crate) fn of(model: &'a ModelInfo) -> Result<Self, Fault> {
        match takes_requests(model) {
            true => Ok(Self { name: model.name.as_str(), ready: true }),
            false => Err(not_ready(model)),
        }
    }
}

/// Whether a request for the model is answered: it serves, or a node loads it for the first that comes. Clients that ask
/// before they send one would else wait for each other's.
pub(crate) fn takes_requests(model: &ModelInfo) -> bool {
    model.state == ModelState::Ready || model.engine.as_ref().is_some_and(|engine| engine.on_demand)
}

/// The fault of a model that cannot serve now, with the reason.
pub(crate) fn not_ready(model: &ModelInfo) -> Fault {
    let reason = model.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let text =
        format!("the model {} version {} is {}{reason}", model.name, model.version, model.state.as_str());
    Fault::new(FaultCode::ModelUnavailable, text)
}

/// The version that a client means: the one it names, else the latest that is ready, else the latest.
///
/// # Errors
/// The cluster does not have it.
pub(crate) fn find<'a>(
    models: &'a [ModelInfo],
    name: &str,
    version: Option<&str>,
) -> Result<&'a ModelInfo, Fault> {
    let mut named = models.iter().filter(|model| model.name.as_str() == name);
    let found = match version {
        Some(version) => {
            let version: Option<ModelVersion> = version.parse().ok();
            named.find(|model| Some(model.version) == version)
        }
        None => named.max_by_key(|model| (model.state == ModelState::Ready, model.version)),
    };
    found.ok_or_else(|| match version {
        Some(version) => unknown_version(models, name, version),
        None => unknown_model(name, None),
    })
}

#[cfg(test)]
mod tests {
    use lineside_wire::{EngineInfo, VersionPolicy};

    use super::*;

    fn model(version: u64, state: ModelState) -> ModelInfo {
        ModelInfo {
            name: "add".parse().expect("a name"),
            version: ModelVersion(version),
            state,
            reason: None,
            inputs: vec![],
            outputs: vec![],
            slots: 1,
            tasks: vec![],
            engine: None,
        }
    }

    #[test]
    fn a_model_that_is_loaded_when_it_is_asked_for_is_ready_to_be_asked() {
        let mut away = model(1, ModelState::Unavailable);
        assert!(ModelReady::of(&away).is_err() && !takes_requests(&away));
        let engine = lineside_wire::EngineInfo { on_demand: true, ..lineside_wire::EngineInfo::default() };
        away.engine = Some(Box::new(engine));
        assert!(ModelReady::of(&away).is_ok_and(|answer| answer.ready));
    }

    #[test]
    fn without_a_version_the_latest_that_serves_is_meant() {
        let models =
            [model(1, ModelState::Ready), model(2, ModelState::Ready), model(3, ModelState::Unavailable)];
        let found = |version| find(&models, "add", version).map(|model| model.version.0);
        assert_eq!(found(None), Ok(2));
        assert_eq!(found(Some("3")), Ok(3));
        for (name, version) in [("add", Some("9")), ("add", Some("01")), ("weld", None), ("../add", None)] {
            let fault = find(&models, name, version).unwrap_err();
            assert!(fault.message.starts_with("Request for unknown model"), "{}", fault.message);
        }
        assert_eq!(find(&models[2..], "add", None).map(|model| model.version.0), Ok(3));
    }

    #[test]
    fn a_version_that_was_not_chosen_is_told_with_the_policy() {
        let mut chosen = model(3, ModelState::Ready);
        let engine = EngineInfo { versions: Some(VersionPolicy::Latest(1)), ..EngineInfo::default() };
        chosen.engine = Some(Box::new(engine));
        let fault = find(&[chosen], "add", Some("1")).unwrap_err();
        assert!(fault.message.starts_with("Request for unknown model"), "{}", fault.message);
        assert!(fault.message.contains("serve the latest version ("), "{}", fault.message);
        assert!(fault.message.ends_with("known are 3"), "{}", fault.message);
    }
}
