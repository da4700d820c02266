//! OpenAI's form of models and embeddings, and of errors.
//!
//! Clients written for it find here what they need to turn texts into vectors. Whatever else such a client sends is
//! passed over.

mod embeddings;
mod errors;
mod input;

use std::{
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

use http::StatusCode;
use serde::Serialize;

use crate::{Cluster, answer::Answer, ask::Ask, errors::Refusal, gate::Permission, oip};

pub(crate) use embeddings::embeddings;
pub(crate) use errors::{error_body, is_ours};
pub(crate) use input::ITEMS_MAX;

#[derive(Serialize)]
struct Models<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

impl<'a> Model<'a> {
    fn named(id: &'a str) -> Self {
        Self { id, object: "model", created: since(), owned_by: "lineside" }
    }
}

/// Since when this process has told of models, in seconds since 1970. Clients want a time that stays the same; when a
/// model was made, nobody here knows.
fn since() -> u64 {
    static SINCE: OnceLock<u64> = OnceLock::new();
    *SINCE.get_or_init(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

/// `GET /v1/models`: those that the caller may see, each once.
pub(crate) fn models<C: Cluster>(ask: &Ask<'_, '_, C>) -> Result<Answer, Refusal> {
    let mut models = ask.cluster().models();
    models.sort_by(|one, other| one.name.cmp(&other.name));
    models.dedup_by(|one, other| one.name == other.name);
    let names = models.iter().map(|model| model.name.as_str());
    let seen = names.filter(|name| ask.may(Permission::Models, Some(name)).is_ok());
    Ok(Answer::json(StatusCode::OK, &Models { object: "list", data: seen.map(Model::named).collect() }))
}

/// `GET /v1/models/{model}`.
pub(crate) fn model<C: Cluster>(ask: &Ask<'_, '_, C>, name: &str) -> Result<Answer, Refusal> {
    let models = ask.cluster().models();
    let model = oip::find(&models, name, None)?;
    Ok(Answer::json(StatusCode::OK, &Model::named(model.name.as_str())))
}
