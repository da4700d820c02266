//! The Open Inference Protocol over REST but for what runs a model: what is there, how it does, and changes of it.

pub(crate) mod config;
mod logging;
mod repository;
mod statistics;

use http::StatusCode;

use crate::{
    Cluster,
    answer::Answer,
    ask::Ask,
    errors::Refusal,
    oip::{self, ModelMetadata, ModelReady, ServerMetadata},
    route::Target,
};

pub(crate) use config::ModelConfig;
pub(crate) use logging::{LogChange, LogSettings, logging};
pub(crate) use repository::{IndexRow, Outcome, index, outcome, repository_change, repository_index};
pub(crate) use statistics::{MemoryUsage, Responses, statistics};

/// `GET /v2`.
pub(crate) fn server() -> Answer {
    Answer::json(StatusCode::OK, &ServerMetadata::default())
}

/// `GET /v2/models/{model}`.
pub(crate) fn model<C: Cluster>(ask: &Ask<'_, '_, C>, target: &Target<'_>) -> Result<Answer, Refusal> {
    let models = ask.cluster().models();
    let model = oip::find(&models, &target.model, target.version.as_deref())?;
    Ok(Answer::json(StatusCode::OK, &ModelMetadata::of(model, &models)?))
}

/// `GET /v2/models/{model}/ready`.
pub(crate) fn model_ready<C: Cluster>(ask: &Ask<'_, '_, C>, target: &Target<'_>) -> Result<Answer, Refusal> {
    let models = ask.cluster().models();
    let model = oip::find(&models, &target.model, target.version.as_deref())?;
    Ok(Answer::json(StatusCode::OK, &ModelReady::of(model)?))
}

/// `GET /v2/models/{model}/config`.
pub(crate) fn model_config<C: Cluster>(ask: &Ask<'_, '_, C>, target: &Target<'_>) -> Result<Answer, Refusal> {
    let models = ask.cluster().models();
    let model = oip::find(&models, &target.model, target.version.as_deref())?;
    Ok(Answer::json(StatusCode::OK, &ModelConfig::of(model)))
}
