//! The thread that loads and unloads models: one thing after another, so that no two changes of a model can meet.
//!
//! One after the other also at the start: each version serves as soon as it is loaded, and two trials at once would
//! measure each other.

mod memory;
mod orders;

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crossbeam_channel::{Receiver, at, never, select};
use lineside_mesh::Responder;
use lineside_wire::{ModelName, ModelParams, ModelState, ModelVersion, NodeId};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::{
    engine::{OpenError, Options, guarded},
    lobby::Lobby,
    model::{Alive, Around, Lost, Model},
    opening::Bench,
    policy::words,
    reload::{Changes, Eager, Known, ModelControl, Situation, Step},
    repository::{self, Files, Place, Scan, Stamps, VERSIONS_MAX, VersionId},
    shelf::{Resting, Shelf},
    statistics::now_ms,
    watch::Watch,
};

pub use orders::is_by_order;

/// Orders that may wait; each can take as long as a model loads.
pub(crate) const ORDERS_MAX: usize = 16;

/// Most steps for one model: every version is loaded or retired once, and what failed is not tried again.
const STEPS_MAX: usize = 2 * VERSIONS_MAX + 2;

/// Digits of a hash that are told in the log.
const HASH_CHARS: usize = 12;

const ON_DEMAND: &str = "loads at the first request";
const NOT_ASKED: &str = "not loaded: this node loads models on request only (node.control)";

/// Something for the loader to do, and who waits for it.
pub(crate) enum Order {
    /// Load, or load anew, what the repository has of a model.
    Load(ModelParams, Responder),
    /// Stop serving a model.
    Unload(ModelParams, Responder),
    /// Load a version that calls wait for in the lobby.
    Demand(VersionId),
}

/// What the loader has of the node.
pub(crate) struct Parts {
    pub(crate) node: NodeId,
    pub(crate) bench: Bench,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) queue_max: NonZeroUsize,
    pub(crate) orders: Receiver<Order>,
    pub(crate) control: ModelControl,
    /// Where calls wait for models; `None` where none is loaded on demand.
    pub(crate) lobby: Option<Arc<Lobby>>,
    /// Memory that models may take that are loaded on demand.
    pub(crate) memory_max: Option<u64>,
    /// Of the node, whose end waits for this thread and the workers.
    pub(crate) alive: Alive,
}

/// Owns every change of the shelf.
pub(crate) struct Loader {
    parts: Parts,
    /// What is known of each version that is, or was, there.
    known: BTreeMap<ModelName, BTreeMap<ModelVersion, Known<Stamps>>>,
    /// How the files were at the last look.
    seen: BTreeMap<VersionId, Stamps>,
    place: Place,
    /// Why the repository could not be read at the last look.
    unreadable: Option<String>,
    /// When what is loaded was loaded, in milliseconds since 1970.
    loaded_ms: BTreeMap<VersionId, u64>,
    /// Counts loads.
    loads: AtomicU64,
}

impl Loader {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            parts,
            known: BTreeMap::new(),
            seen: BTreeMap::new(),
            place: Place::default(),
            unreadable: None,
            loaded_ms: BTreeMap::new(),
            loads: AtomicU64::new(0),
        }
    }

    /// Loads what the repository holds, then carries out orders and follows its changes until the node is dropped.
    pub(crate) fn run(mut self) {
        // Before the first scan, so that nothing is missed in between.
        let mut changes = Changes::of(&self.parts.bench.repository, &self.parts.control, Instant::now());
        if let Err(panic) = guarded(|| self.load_all()) {
            error!(panic, "the first scan of the models ended early");
        }
        self.parts.shelf.set_scanned();
        let orders = self.parts.orders.clone();
        loop {
            let notices = changes.notices().clone();
            let due = changes.due().map_or_else(never, |due| at(due.into_std()));
            // An order's responder tells its caller, should this panic.
            let done = select! {
                recv(orders) -> order => match order {
                    Ok(order) => guarded(|| self.carry_out(order)),
                    Err(_) => return,
                },
                recv(notices) -> notice => {
                    changes.noticed(notice.is_ok(), Instant::now());
                    Ok(())
                }
                recv(due) -> _ => guarded(|| self.look(&mut changes)),
            };
            if let Err(panic) = done {
                error!(panic, "the loader panicked");
            }
        }
    }

    fn load_all(&mut self) {
        let scan = match self.scan() {
            Ok(scan) => scan,
            Err(reason) => return error!(reason, "no models"),
        };
        self.place = scan.place;
        let asked = self.ask_for_the_first(&scan);
        let names = scan.names();
        for name in &names {
            for version in self.situation(&scan.of(name), &scan, name).to_load() {
                let id = VersionId { name: name.clone(), version };
                self.parts.shelf.set_away(&id, ModelState::Loading, None, self.parts.lobby.is_some());
            }
            self.list(&scan, name);
        }
        self.tell_resting(&scan);
        for name in &names {
            match asked.get(name) {
                Some(versions) => drop(self.load_asked(&scan, name, versions.clone())),
                None => drop(self.settle(&scan, name)),
            }
        }
        self.tell_resting(&scan);
    }

    /// With explicit control, what is loaded at the start is what is named, or everything.
    fn ask_for_the_first(&mut self, scan: &Scan) -> BTreeMap<ModelName, BTreeSet<ModelVersion>> {
        let mut asked = BTreeMap::new();
        let ModelControl::Explicit { load } = self.parts.control.clone() else { return asked };
        let names = match load {
            Some(names) => names,
            None if self.parts.lobby.is_some() => return asked,
            None => scan.names().into_iter().collect(),
        };
        for name in names {
            let chosen = self.chosen(scan, &name);
            if chosen.is_empty() {
                warn!(model = %name, "node.load names a model that the repository does not hold");
            }
            for version in &chosen {
                self.known_of(&name, *version).asked = true;
            }
            asked.insert(name, chosen);
        }
        asked
    }

    fn scan(&mut self) -> Result<Scan, String> {
        let repository = &self.parts.bench.repository;
        let scan = repository::read(repository)
            .map_err(|error| format!("{} cannot be read: {error}", repository.display()))?;
        if self.parts.shelf.refused() != scan.refused {
            for refused in &scan.refused {
                warn!(path = %refused.path.display(), reason = refused.reason, "not loaded");
            }
            self.parts.shelf.set_refused(scan.refused.clone());
        }
        self.seen.clone_from(&scan.stamps);
        Ok(scan)
    }

    /// Looks whether the repository has changed, and does what follows from it.
    fn look(&mut self, changes: &mut Changes) {
        let before = self.seen.clone();
        let scan = match self.scan() {
            Ok(scan) => scan,
            Err(reason) => return self.is_gone(reason, changes),
        };
        if scan.versions.is_empty() && self.place.device != scan.place.device {
            return self.is_gone("another, empty file system is in its place".to_owned(), changes);
        }
        let was_gone = self.unreadable.take().is_some();
        if was_gone {
            info!("the model repository is back");
        }
        if std::mem::replace(&mut self.place, scan.place) != scan.place || was_gone {
            return changes.replaced(Instant::now());
        }
        if changes.looked(before != scan.stamps, Instant::now()) {
            let known = self.known.keys().cloned();
            let mut names: BTreeSet<_> = scan.names().into_iter().chain(known).collect();
            names.retain(|name| changes.may_load(scan.of(name).values()));
            for name in &names {
                self.settle(&scan, name);
            }
            self.tell_resting(&scan);
        }
    }

    fn is_gone(&mut self, reason: String, changes: &mut Changes) {
        changes.missed(Instant::now());
        // Told once.
        if self.unreadable.as_ref() != Some(&reason) {
            warn!(reason, "the model repository is gone: what is loaded serves on");
            self.unreadable = Some(reason);
        }
    }

    /// Takes one step after another until a model is as it should be; gives what did not load, and why.
    fn settle(&mut self, scan: &Scan, name: &ModelName) -> Vec<(ModelVersion, String)> {
        let there = scan.of(name);
        let mut failures = Vec::new();
        for _ in 0..STEPS_MAX {
            if self.parts.shelf.is_closed() {
                return failures;
            }
            match self.situation(&there, scan, name).next() {
                None => break,
                Some(Step::Retire(versions)) => {
                    self.parts.shelf.forget(name, &versions);
                    self.retired(name, &versions);
                }
                Some(Step::Load { version, retire }) => {
                    let id = VersionId { name: name.clone(), version };
                    if let Err(reason) = self.load(scan, &id, &retire) {
                        failures.push((version, reason));
                    }
                }
            }
        }
        self.list(scan, name);
        failures
    }

    /// Loads versions that somebody asked for, and where one does not load, the one that stands in for it. Gives what did
    /// not load, and why.
    fn load_asked(
        &mut self,
        scan: &Scan,
        name: &ModelName,
        mut next: BTreeSet<ModelVersion>,
    ) -> Vec<(ModelVersion, String)> {
        let (mut tried, mut failures) = (BTreeSet::new(), Vec::new());
        while !next.is_empty() {
            for version in &next {
                self.known_of(name, *version).asked = true;
            }
            tried.append(&mut next);
            let before = failures.len();
            failures.extend(self.settle(scan, name));
            if before < failures.len() {
                next = self.chosen(scan, name);
                next.retain(|version| {
                    !tried.contains(version) && self.parts.shelf.find(name, Some(*version)).is_err()
                });
            }
        }
        failures
    }

    fn situation<'a>(
        &'a self,
        there: &'a BTreeMap<ModelVersion, Stamps>,
        scan: &'a Scan,
        name: &ModelName,
    ) -> Situation<'a, Stamps> {
        static NOTHING: BTreeMap<ModelVersion, Known<Stamps>> = BTreeMap::new();
        let eager = match (&self.parts.control, &self.parts.lobby) {
            (ModelControl::Explicit { .. }, _) => Eager::Asked,
            (ModelControl::Watch { .. } | ModelControl::Poll { .. }, Some(_)) => Eager::Used,
            (ModelControl::Watch { .. } | ModelControl::Poll { .. }, None) => Eager::There,
        };
        let known = self.known.get(name).unwrap_or(&NOTHING);
        Situation { there, policy: scan.policies.get(name), known, eager }
    }

    fn chosen(&self, scan: &Scan, name: &ModelName) -> BTreeSet<ModelVersion> {
        self.situation(&scan.of(name), scan, name).chosen()
    }

    fn known_of(&mut self, name: &ModelName, version: ModelVersion) -> &mut Known<Stamps> {
        self.known.entry(name.clone()).or_default().entry(version).or_default()
    }

    /// Loads one version. Once it is ready it takes the place of its older load and of the versions that retire.
    fn load(&mut self, scan: &Scan, id: &VersionId, retire: &[ModelVersion]) -> Result<(), String> {
        let shelf = Arc::clone(&self.parts.shelf);
        let stamps = scan.stamps.get(id).cloned().unwrap_or_default();
        let known = self.known_of(&id.name, id.version);
        known.asked = false;
        let replaces = known.loaded.is_some() || !retire.is_empty();
        let serves = shelf.find(&id.name, Some(id.version)).is_ok();
        if !serves {
            shelf.set_away(id, ModelState::Loading, None, self.parts.lobby.is_some());
        }
        let begun = Instant::now();
        let room = self.make_room(id, stamps.bytes());
        let is_full = room.is_err();
        let files = scan.versions.get(id).cloned().unwrap_or_else(|| Err("it is gone".to_owned()));
        let opened = room.and(files).and_then(|files| guarded(|| self.open(id, &files))?);
        let model = match opened {
            Ok(model) => model,
            Err(reason) => {
                warn!(model = %id.name, version = %id.version, reason, "not loaded");
                // Room may be there the next time; files that do not load have to change first.
                let comes_again = is_full && !replaces && self.parts.lobby.is_some();
                self.failed(id, (!comes_again).then_some(stamps), serves, &reason);
                return Err(reason);
            }
        };
        tell_loaded(&model, begun, retire);
        let slots = u32::try_from(model.sessions).unwrap_or(u32::MAX);
        shelf.serve(Arc::new(model), slots, retire);
        let known = self.known_of(&id.name, id.version);
        (known.loaded, known.failed, known.unloaded) = (Some(stamps), None, None);
        self.loaded_ms.insert(id.clone(), now_ms());
        self.retired(&id.name, retire);
        self.keep_within(id);
        Ok(())
    }

    fn failed(&mut self, id: &VersionId, stamps: Option<Stamps>, serves: bool, reason: &str) {
        let comes_again = stamps.is_none();
        self.known_of(&id.name, id.version).failed = stamps;
        let shelf = &self.parts.shelf;
        match (serves, comes_again) {
            (true, _) => {
                let note =
                    format!("its changed files were not loaded: {reason}; what was loaded before serves on");
                shelf.note(id, Some(&note));
            }
            // The list says the rest.
            (false, true) => {}
            (false, false) => drop(shelf.set_aside(id, ModelState::Unavailable, Some(reason))),
        }
    }

    /// Notes that versions serve no longer.
    fn retired(&mut self, name: &ModelName, versions: &[ModelVersion]) {
        for version in versions {
            let known = self.known_of(name, *version);
            (known.loaded, known.pinned) = (None, false);
            self.loaded_ms.remove(&VersionId { name: name.clone(), version: *version });
            info!(model = %name, %version, "retired");
        }
    }

    /// Brings the list of a model's versions to what is known of them, where no load has done it.
    fn list(&mut self, scan: &Scan, name: &ModelName) {
        let there = scan.of(name);
        let situation = self.situation(&there, scan, name);
        let (chosen, to_load) = (situation.chosen(), situation.to_load());
        let shelf = Arc::clone(&self.parts.shelf);
        let mut unlisted = Vec::new();
        for (version, stamps) in &there {
            let id = VersionId { name: name.clone(), version: *version };
            let known =
                self.known.get(name).and_then(|known| known.get(version)).cloned().unwrap_or_default();
            match known {
                _ if to_load.contains(version) => {}
                Known { loaded: Some(loaded), .. } => {
                    if loaded == *stamps && shelf.find(name, Some(*version)).is_ok() {
                        shelf.note(&id, None);
                    }
                }
                Known { failed: Some(then), .. } | Known { unloaded: Some(then), .. } if then == *stamps => {}
                _ if !chosen.contains(version) => unlisted.push(*version),
                _ if self.parts.lobby.is_some() => {
                    shelf.set_away(&id, ModelState::Unavailable, Some(ON_DEMAND), true);
                }
                _ => drop(shelf.set_aside(&id, ModelState::Unavailable, Some(NOT_ASKED))),
            }
        }
        let Some(known) = self.known.get_mut(name) else { return shelf.forget(name, &unlisted) };
        known.retain(|version, known| {
            let stays = there.contains_key(version) || known.loaded.is_some();
            if !stays {
                unlisted.push(*version);
            }
            stays
        });
        if known.is_empty() {
            self.known.remove(name);
        }
        shelf.forget(name, &unlisted);
    }

    /// A loaded version goes back to those that wait for a call.
    fn rest_until_asked(&mut self, id: &VersionId) -> Option<Arc<Model>> {
        self.known_of(&id.name, id.version).loaded = None;
        self.loaded_ms.remove(id);
        self.parts.shelf.set_away(id, ModelState::Unavailable, Some(ON_DEMAND), true)
    }

    /// Tells which versions lie there and do not serve, for whoever asks for one.
    fn tell_resting(&self, scan: &Scan) {
        let mut resting = Resting::new();
        for (name, policy) in &scan.policies {
            let chosen = self.chosen(scan, name);
            let others: Vec<_> =
                scan.of(name).into_keys().filter(|version| !chosen.contains(version)).collect();
            if !others.is_empty() {
                resting.insert(name.clone(), (others, words(policy)));
            }
        }
        self.parts.shelf.set_resting(resting);
    }

    fn open(&self, id: &VersionId, files: &Files) -> Result<Model, String> {
        let Parts { node, bench, watch, queue_max, alive, .. } = &self.parts;
        let ready = bench.open(files)?;
        let open = {
            let (engine, path) = (Arc::clone(&bench.engine), files.model.clone());
            let options = Options { sessions: 1, ..ready.options.clone() };
            move || {
                let opened = engine.open(&path, &options)?;
                opened
                    .sessions
                    .into_iter()
                    .next()
                    .ok_or_else(|| OpenError::Refused("no session came".to_owned()))
            }
        };
        // One that takes a serving version's place goes on counting.
        let served = self.parts.shelf.find(&id.name, Some(id.version));
        let counters = served.map(|model| Arc::clone(&model.counters)).unwrap_or_default();
        let serial = self.loads.fetch_add(1, Ordering::Relaxed);
        let around = Around {
            node: *node,
            serial,
            counters,
            queue_max: queue_max.get(),
            watch: Arc::clone(watch),
            alive: alive.clone(),
            reopen: Arc::new(open),
            lost: self.when_lost(id, serial),
        };
        Model::start(id.clone(), ready, &around)
            .map_err(|error| format!("the system gives no more threads: {error}"))
    }

    fn when_lost(&self, id: &VersionId, serial: u64) -> Arc<Lost> {
        // Weak: a worker must not keep its own version alive.
        let (shelf, id) = (Arc::downgrade(&self.parts.shelf), id.clone());
        Arc::new(move |reason| {
            if let Some(shelf) = shelf.upgrade() {
                shelf.lose(&id, serial, reason);
            }
        })
    }
}

fn tell_loaded(model: &Model, begun: Instant, retire: &[ModelVersion]) {
    let VersionId { name, version } = &model.id;
    let engine = &model.info;
    let hash: String = engine.sha256.chars().take(HASH_CHARS).collect();
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    for warning in &engine.warnings {
        warn!(model = %name, %version, warning, "loaded, but");
    }
    info!(
        model = %name, %version, slots = model.sessions, provider = engine.provider, finding = engine.finding,
        memory_bytes = engine.memory_bytes, sha256 = hash, took_ms, "loaded"
    );
    debug!(model = %name, %version, ?retire, "takes over from");
}
