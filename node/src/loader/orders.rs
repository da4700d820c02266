//! What people and calls order: load, unload, load for a call.

use std::{collections::BTreeSet, time::Duration};

use lineside_wire::{
    Fault, FaultCode, ModelInfo, ModelName, ModelParams, ModelState, ModelVersion, ModelsResult,
    PayloadBuilder,
};
use tracing::{debug, info, warn};

use super::{Loader, NOT_ASKED, Order};
use crate::{
    engine::{MESSAGE_CHARS_MAX, clipped},
    reload::Known,
    repository::VersionId,
    shelf::fitting,
};

/// How long an unload waits for the calls that the version still has. Past it the memory is freed later.
const UNLOAD_WAIT_MAX: Duration = Duration::from_secs(30);

const UNLOADED: &str = "unloaded on request; load it again to serve it";

/// Whether a model does not serve because somebody, or the node's settings, said so, by the reason that is told of it.
///
/// What another release tells in other words counts as a failure.
#[must_use]
pub fn is_by_order(reason: &str) -> bool {
    [NOT_ASKED, UNLOADED].contains(&reason)
}

impl Loader {
    pub(super) fn carry_out(&mut self, order: Order) {
        let (reply, outcome) = match order {
            Order::Load(params, reply) => (reply, self.load_again(&params)),
            Order::Unload(params, reply) => (reply, self.unload(&params)),
            Order::Demand(id) => return self.load_for_calls(&id),
        };
        match outcome {
            Ok(models) => {
                reply.answer(&ModelsResult { models: fitting(models) }, None, PayloadBuilder::new());
            }
            Err(fault) => reply.fail(&fault, None),
        }
    }

    fn load_again(&mut self, params: &ModelParams) -> Result<Vec<ModelInfo>, Fault> {
        let unreadable = |reason| Fault::new(FaultCode::ModelUnavailable, reason);
        let scan = self.scan().map_err(unreadable)?;
        let name = &params.model;
        let there = scan.of(name);
        let asked: Vec<_> = there.keys().copied().filter(|version| is_of(params, name, *version)).collect();
        if asked.is_empty() {
            return Err(self.not_in_repository(params));
        }
        for version in &asked {
            let known = self.known_of(name, *version);
            (known.failed, known.unloaded, known.pinned) = (None, None, false);
        }
        let mut chosen = self.chosen(&scan, name);
        if let Some(version) = params.version.filter(|version| !chosen.contains(version)) {
            // Asked for by its number: that counts more than what the settings say.
            self.known_of(name, version).pinned = true;
            chosen.insert(version);
        }
        let tried: BTreeSet<_> = asked.into_iter().filter(|version| chosen.contains(version)).collect();
        let failures = self.load_asked(&scan, name, tried.clone());
        self.tell_resting(&scan);
        let failed = |version: &ModelVersion| failures.iter().any(|(failed, _)| failed == version);
        // Of several versions some may serve now: the list says which.
        match !tried.is_empty() && tried.iter().all(failed) {
            true => Err(self.none_loaded(name, &failures)),
            false => Ok(self.listed(params)),
        }
    }

    fn none_loaded(&self, name: &ModelName, failures: &[(ModelVersion, String)]) -> Fault {
        let reasons = failures.iter().map(|(version, reason)| {
            let kept = match self.parts.shelf.find(name, Some(*version)) {
                Ok(_) => "; what was loaded before serves on",
                Err(_) => "",
            };
            format!("{name} version {version}: {reason}{kept}")
        });
        let mut text = reasons.collect::<Vec<_>>().join("; ");
        let serving = self.parts.shelf.find(name, None).ok().map(|model| model.id.version);
        if let Some(other) = serving.filter(|version| failures.iter().all(|(failed, _)| failed != version)) {
            text += &format!("; version {other} serves");
        }
        Fault::new(FaultCode::ModelRejected, clipped(&text, MESSAGE_CHARS_MAX))
    }

    fn unload(&mut self, params: &ModelParams) -> Result<Vec<ModelInfo>, Fault> {
        let known = self.listed(params);
        if known.is_empty() {
            return Err(self.not_in_repository(params));
        }
        for info in known {
            let id = VersionId { name: info.name, version: info.version };
            let seen = self.seen.get(&id).cloned();
            let known = self.known_of(&id.name, id.version);
            let unloaded = seen.or_else(|| known.loaded.take());
            *known = Known { unloaded, ..Known::default() };
            let Some(model) = self.parts.shelf.set_aside(&id, ModelState::Unloading, None) else {
                self.parts.shelf.set_aside(&id, ModelState::Unavailable, Some(UNLOADED));
                continue;
            };
            let ended = model.ended();
            drop(model);
            if !ended.within(UNLOAD_WAIT_MAX) {
                warn!(model = %id.name, version = %id.version, "calls outlive their unloaded model");
            }
            self.parts.shelf.set_aside(&id, ModelState::Unavailable, Some(UNLOADED));
            info!(model = %id.name, version = %id.version, "unloaded");
        }
        Ok(self.listed(params))
    }

    fn load_for_calls(&mut self, id: &VersionId) {
        let lobby = self.parts.lobby.clone();
        if lobby.as_ref().is_some_and(|lobby| !lobby.waits_for(id)) {
            return debug!(model = %id.name, version = %id.version, "not loaded: nobody waits for it any more");
        }
        let outcome = self.load_one(id).map_err(|reason| {
            let text = format!("{} version {} could not be loaded: {reason}", id.name, id.version);
            Fault::new(FaultCode::ModelUnavailable, clipped(&text, MESSAGE_CHARS_MAX))
        });
        if let Some(lobby) = lobby {
            lobby.done(id, outcome.as_ref().copied());
        }
    }

    fn load_one(&mut self, id: &VersionId) -> Result<(), String> {
        let serves = |loader: &Self| loader.parts.shelf.find(&id.name, Some(id.version)).map(drop);
        if serves(self).is_ok() {
            return Ok(());
        }
        let scan = self.scan()?;
        self.known_of(&id.name, id.version).asked = true;
        let failures = self.settle(&scan, &id.name);
        self.tell_resting(&scan);
        match failures.into_iter().find(|(version, _)| *version == id.version) {
            Some((_, reason)) => Err(reason),
            None => serves(self).map_err(|fault| fault.message),
        }
    }

    fn listed(&self, params: &ModelParams) -> Vec<ModelInfo> {
        let of = |info: &ModelInfo| is_of(params, &info.name, info.version);
        self.parts.shelf.all().into_iter().filter(of).collect()
    }

    fn not_in_repository(&self, params: &ModelParams) -> Fault {
        let model = &params.model;
        let version = params.version.map(|version| format!(" version {version}")).unwrap_or_default();
        let mut text = format!("{} holds no {model}{version}", self.parts.bench.repository.display());
        let refused = self.parts.shelf.refused();
        if let Some(near) = refused.iter().find(|refused| refused.path.starts_with(model.as_str())) {
            text += &format!(", but {}: {}", near.path.display(), near.reason);
        }
        Fault::new(FaultCode::ModelNotFound, clipped(&text, MESSAGE_CHARS_MAX))
    }
}

fn is_of(params: &ModelParams, name: &ModelName, version: ModelVersion) -> bool {
    params.model == *name && params.version.is_none_or(|wanted| wanted == version)
}
