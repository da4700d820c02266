//! The thread that loads and unloads models: one thing after another, so that no two changes of a model can meet.

use std::{
    num::NonZeroUsize,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::Receiver;
use lineside_mesh::Responder;
use lineside_wire::{
    Fault, FaultCode, ModelInfo, ModelName, ModelParams, ModelState, ModelVersion, ModelsResult, NodeId,
    PayloadBuilder,
};
use tracing::{error, info, warn};

use crate::{
    engine::{Engine, MESSAGE_CHARS_MAX, Session, clipped, guarded},
    model::{Alive, Around, Lost, Model},
    repository::{self, Files, Scan, VersionId},
    settings::{Folder, Source},
    shelf::{Shelf, fitting},
    task::Tasks,
};

/// Orders that may wait; each can take as long as a model loads.
pub(crate) const ORDERS_MAX: usize = 16;

/// How long an unload waits for the calls that the version still has. Past it the memory is freed later.
const UNLOAD_WAIT_MAX: Duration = Duration::from_secs(30);

const UNLOADED: &str = "unloaded on request; load it again to serve it";

/// Something for the loader to do, and who waits for it.
pub(crate) enum Order {
    /// Load, or load anew, what the repository has of a model.
    Load(ModelParams, Responder),
    /// Stop serving a model.
    Unload(ModelParams, Responder),
}

/// Owns every change of the shelf.
pub(crate) struct Loader {
    pub(crate) node: NodeId,
    pub(crate) repository: PathBuf,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) sessions: NonZeroUsize,
    pub(crate) queue_max: NonZeroUsize,
    pub(crate) orders: Receiver<Order>,
    /// Counts loads.
    pub(crate) loads: AtomicU64,
    /// Of the node, whose end waits for this thread and the workers.
    pub(crate) alive: Alive,
}

impl Loader {
    /// Loads what the repository holds, then carries out orders until the node is dropped.
    pub(crate) fn run(self) {
        if let Err(panic) = guarded(|| self.load_all()) {
            error!(panic, "the first scan of the models ended early");
        }
        self.shelf.set_scanned();
        while let Ok(order) = self.orders.recv() {
            // The order's responder tells its caller, should this panic.
            if let Err(panic) = guarded(|| self.carry_out(order)) {
                error!(panic, "the loader panicked");
            }
        }
    }

    fn load_all(&self) {
        let scan = match self.scan() {
            Ok(scan) => scan,
            Err(reason) => return error!(reason, "no models"),
        };
        for id in scan.versions.keys() {
            self.shelf.set_aside(id, ModelState::Loading, None);
        }
        for (id, files) in &scan.versions {
            if self.shelf.is_closed() {
                return;
            }
            if let Err(reason) = self.load(id, files) {
                self.shelf.set_aside(id, ModelState::Unavailable, Some(&reason));
            }
        }
    }

    fn scan(&self) -> Result<Scan, String> {
        let scan = repository::read(&self.repository);
        let scan = scan.map_err(|error| format!("{} cannot be read: {error}", self.repository.display()))?;
        for refused in &scan.refused {
            warn!(path = %refused.path.display(), reason = refused.reason, "not loaded");
        }
        self.shelf.set_refused(scan.refused.clone());
        Ok(scan)
    }

    /// Loads one version; one that serves already is replaced once the new one is ready.
    fn load(&self, id: &VersionId, files: &Result<Files, String>) -> Result<(), String> {
        let loaded = files.clone().and_then(|files| self.open(id, &files));
        match loaded {
            Ok(model) => {
                let slots = u32::try_from(self.sessions.get()).unwrap_or(u32::MAX);
                self.shelf.serve(Arc::new(model), slots);
                info!(model = %id.name, version = %id.version, slots, "loaded");
                Ok(())
            }
            Err(reason) => {
                warn!(model = %id.name, version = %id.version, reason, "not loaded");
                Err(reason)
            }
        }
    }

    fn open(&self, id: &VersionId, files: &Files) -> Result<Model, String> {
        // Before the model, which takes longer.
        let (source, settings) = Source::read(&self.repository, &files.settings)?;
        let open = {
            let (engine, path) = (Arc::clone(&self.engine), files.model.clone());
            move || engine.open(&path)
        };
        let sessions: Vec<Box<dyn Session>> = (0..self.sessions.get())
            .map(|_| guarded(&open).and_then(|opened| opened.map_err(|error| error.to_string())))
            .collect::<Result<_, String>>()?;
        let signature = sessions.first().map(|session| session.signature().clone()).unwrap_or_default();
        let folder = Folder::new(&self.repository, &files.model, &files.settings);
        let folder = folder.map_err(|error| format!("the repository cannot be read: {error}"))?;
        let tasks = guarded(|| Tasks::new(&settings, &signature, &folder))?;
        let tasks = tasks.map_err(|wrong| source.tell(&wrong))?;
        // One that takes a serving version's place goes on counting.
        let served = self.shelf.find(&id.name, Some(id.version));
        let counters = served.map(|model| Arc::clone(&model.counters)).unwrap_or_default();
        let serial = self.loads.fetch_add(1, Ordering::Relaxed);
        let around = Around {
            node: self.node,
            serial,
            tasks: Arc::new(tasks),
            counters,
            alive: self.alive.clone(),
            queue_max: self.queue_max.get(),
            reopen: Arc::new(open),
            lost: self.when_lost(id, serial),
        };
        Model::start(id.clone(), sessions, &around)
            .map_err(|error| format!("the system gives no more threads: {error}"))
    }

    fn when_lost(&self, id: &VersionId, serial: u64) -> Arc<Lost> {
        // Weak: a worker must not keep its own version alive.
        let (shelf, id) = (Arc::downgrade(&self.shelf), id.clone());
        Arc::new(move |reason| {
            if let Some(shelf) = shelf.upgrade() {
                shelf.lose(&id, serial, reason);
            }
        })
    }

    fn carry_out(&self, order: Order) {
        let (reply, outcome) = match order {
            Order::Load(params, reply) => (reply, self.load_again(&params)),
            Order::Unload(params, reply) => (reply, self.unload(&params)),
        };
        match outcome {
            Ok(models) => {
                reply.answer(&ModelsResult { models: fitting(models) }, None, PayloadBuilder::new());
            }
            Err(fault) => reply.fail(&fault, None),
        }
    }

    fn load_again(&self, params: &ModelParams) -> Result<Vec<ModelInfo>, Fault> {
        let unreadable = |reason| Fault::new(FaultCode::ModelUnavailable, reason);
        let mut scan = self.scan().map_err(unreadable)?;
        scan.versions.retain(|id, _| is_of(params, &id.name, id.version));
        if scan.versions.is_empty() {
            return Err(self.not_in_repository(params));
        }
        let mut reasons = Vec::new();
        for (id, files) in &scan.versions {
            let serves = self.shelf.find(&id.name, Some(id.version)).is_ok();
            if !serves {
                self.shelf.set_aside(id, ModelState::Loading, None);
            }
            if let Err(reason) = self.load(id, files) {
                let kept = if serves { "; what was loaded before serves on" } else { "" };
                reasons.push(format!("{} version {}: {reason}{kept}", id.name, id.version));
                if !serves {
                    self.shelf.set_aside(id, ModelState::Unavailable, Some(&reason));
                }
            }
        }
        // Of several versions some may serve now: the list says which.
        match reasons.len() == scan.versions.len() {
            true => {
                let text = clipped(&reasons.join("; "), MESSAGE_CHARS_MAX);
                Err(Fault::new(FaultCode::ModelRejected, text))
            }
            false => Ok(self.listed(params)),
        }
    }

    fn unload(&self, params: &ModelParams) -> Result<Vec<ModelInfo>, Fault> {
        let known = self.listed(params);
        if known.is_empty() {
            return Err(self.not_in_repository(params));
        }
        for info in known {
            let id = VersionId { name: info.name, version: info.version };
            let Some(model) = self.shelf.set_aside(&id, ModelState::Unloading, None) else {
                self.shelf.set_aside(&id, ModelState::Unavailable, Some(UNLOADED));
                continue;
            };
            let ended = model.ended();
            drop(model);
            if !ended.within(UNLOAD_WAIT_MAX) {
                warn!(model = %id.name, version = %id.version, "calls outlive their unloaded model");
            }
            self.shelf.set_aside(&id, ModelState::Unavailable, Some(UNLOADED));
            info!(model = %id.name, version = %id.version, "unloaded");
        }
        Ok(self.listed(params))
    }

    fn listed(&self, params: &ModelParams) -> Vec<ModelInfo> {
        let of = |info: &ModelInfo| is_of(params, &info.name, info.version);
        self.shelf.all().into_iter().filter(of).collect()
    }

    fn not_in_repository(&self, params: &ModelParams) -> Fault {
        let model = &params.model;
        let version = params.version.map(|version| format!(" version {version}")).unwrap_or_default();
        let mut text = format!("{} holds no {model}{version}", self.repository.display());
        let refused = self.shelf.refused();
        if let Some(near) = refused.iter().find(|refused| refused.path.starts_with(model.as_str())) {
            text += &format!(", but {}: {}", near.path.display(), near.reason);
        }
        Fault::new(FaultCode::ModelNotFound, clipped(&text, MESSAGE_CHARS_MAX))
    }
}

fn is_of(params: &ModelParams, name: &ModelName, version: ModelVersion) -> bool {
    params.model == *name && params.version.is_none_or(|wanted| wanted == version)
}
