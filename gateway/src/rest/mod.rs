//! The Open Inference Protocol over REST but for `infer`: what is there, how it does, and changes of it.

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
    infer::Asked,
    oip::{self, ModelMetadata, ModelReady, ServerMetadata},
    route::Target,
};

pub(crate) use config::ModelConfig;
pub(crate) use logging::{LogChange, LogSettings, logging};
pub(crate) use repository::{
    IndexRow, Outcome, index, outcome, repository_index, repository_load, repository_unload,
};
pub(crate) use statistics::statistics;

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

/// `POST /v2/models/{model}/generate`.
pub(crate) async fn generate<C: Cluster>(
    ask: &mut Ask<'_, '_, C>,
    target: &Target<'_>,
) -> Result<Answer, Refusal> {
    generated(ask, target, false).await
}

/// `POST /v2/models/{model}/generate_stream`.
pub(crate) async fn generate_stream<C: Cluster>(
    ask: &mut Ask<'_, '_, C>,
    target: &Target<'_>,
) -> Result<Answer, Refusal> {
    generated(ask, target, true).await
}

async fn generated<C: Cluster>(
    ask: &mut Ask<'_, '_, C>,
    target: &Target<'_>,
    is_stream: bool,
) -> Result<Answer, Refusal> {
    let body = ask.body().await?;
    let _place = ask.enter()?;
    let asked = Asked::read_generate(ask, target, body, is_stream)?;
    asked.infer(ask.cluster(), ask.shared()).await
}
