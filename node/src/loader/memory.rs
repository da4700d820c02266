//! Makes room for models that are loaded on demand: those that nobody asked for the longest go.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{info, warn};

use super::Loader;
use crate::{
    demand::{Resident, to_evict},
    model::Model,
    repository::VersionId,
};

/// How long an eviction waits for the calls that came in at the last moment.
const EVICT_WAIT_MAX: Duration = Duration::from_secs(5);

/// Memory of a model that was not measured, in bytes of its files: they are read, and ONNX Runtime lays most weights out
/// anew.
const MEMORY_PER_FILE: u64 = 2;

impl Loader {
    /// Makes room for a version.
    ///
    /// # Errors
    /// There is none to be made.
    pub(super) fn make_room(&mut self, id: &VersionId, file_bytes: u64) -> Result<(), String> {
        let known = self.parts.shelf.get(&id.name, Some(id.version)).ok().and_then(|info| info.engine);
        let measured = known.map(|engine| engine.memory_bytes).filter(|bytes| 0 < *bytes);
        let need = measured.unwrap_or_else(|| file_bytes.saturating_mul(MEMORY_PER_FILE));
        self.fit(id, need).map_err(|(stays, max)| {
            format!(
                "it takes about {} of memory, and of the {} that node.memory_max allows, models that are at work take \
                 {}: ask again later, or allow more",
                mebibytes(need),
                mebibytes(max),
                mebibytes(stays)
            )
        })
    }

    /// Looks again when it is known what the version takes.
    pub(super) fn keep_within(&mut self, id: &VersionId) {
        if let Err((stays, max)) = self.fit(id, 0) {
            let (stays, max) = (mebibytes(stays), mebibytes(max));
            let reason =
                format!("it takes, with the models that are at work, {stays}; node.memory_max is {max}");
            warn!(model = %id.name, version = %id.version, reason, "more memory is used than is allowed");
        }
    }

    /// Lets go of what stands in the way of so many bytes.
    ///
    /// # Errors
    /// What cannot go takes too much: its bytes, and those that are allowed.
    fn fit(&mut self, id: &VersionId, need: u64) -> Result<(), (u64, u64)> {
        let Some(max) = self.parts.memory_max.filter(|_| self.parts.lobby.is_some()) else { return Ok(()) };
        let gone = to_evict(&self.residents(id), need, max).map_err(|stays| (stays, max))?;
        gone.iter().for_each(|id| self.evict(id));
        Ok(())
    }

    /// What is loaded. The version that room is made for stays, if an older load of it serves.
    fn residents(&self, stays: &VersionId) -> Vec<Resident> {
        let models = self.parts.shelf.serving();
        let resident = |model: &Arc<Model>| {
            let last_ms = model.counters.read(&model.id).last_inference_ms;
            let loaded_ms = self.loaded_ms.get(&model.id).copied().unwrap_or_default();
            let keeps_state =
                || model.sequences.as_ref().is_some_and(|kept| kept.expire(Instant::now()).is_some());
            Resident {
                id: model.id.clone(),
                bytes: match model.info.memory_bytes {
                    0 => model.info.file_bytes.saturating_mul(MEMORY_PER_FILE),
                    measured => measured,
                },
                used_ms: last_ms.max(loaded_ms),
                busy: model.id == *stays || !model.lane.is_idle() || keeps_state(),
            }
        };
        models.iter().map(resident).collect()
    }

    fn evict(&mut self, id: &VersionId) {
        let Some(model) = self.rest_until_asked(id) else { return };
        let ended = model.ended();
        drop(model);
        if !ended.within(EVICT_WAIT_MAX) {
            warn!(model = %id.name, version = %id.version, "calls outlive their model, which had to make room");
        }
        info!(model = %id.name, version = %id.version, "unloaded to make room");
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
