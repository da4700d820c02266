//! The versions that this node knows, and which of them serve.
//!
//! Readers take a snapshot without a lock; every change makes a new one and is told to who watches.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use lineside_wire::{
    EngineInfo, Fault, FaultCode, ModelInfo, ModelName, ModelState, ModelStatistics, ModelVersion,
    StatisticsParams, VersionPolicy,
};
use tokio::sync::watch;

use crate::{
    engine::{Signature, clipped},
    model::Model,
    repository::{Refused, VersionId},
};

/// Longest reason in a list, in characters.
const REASON_CHARS_MAX: usize = 500;

/// Most bytes of one list in a document. Past it, inputs and outputs are left to `models.get`: a frame's document ends
/// at 64 KiB, and a list must never be the frame that breaks a stream.
const LIST_BYTES_MAX: usize = 48 << 10;

/// When to ask again for a model that is being loaded.
const LOADING_RETRY_MS: u64 = 500;

type Table = BTreeMap<ModelName, BTreeMap<ModelVersion, Entry>>;

/// Of each model whose repository holds versions that do not serve: which, and which do, for a person.
pub(crate) type Resting = BTreeMap<ModelName, (Vec<ModelVersion>, String)>;

#[derive(Clone)]
struct Entry {
    info: ModelInfo,
    /// Present while it serves.
    model: Option<Arc<Model>>,
}

/// The versions.
pub(crate) struct Shelf {
    table: ArcSwap<Table>,
    refused: ArcSwap<Vec<Refused>>,
    resting: ArcSwap<Resting>,
    changed: watch::Sender<u64>,
    scanned: AtomicBool,
    closed: AtomicBool,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        Self {
            table: ArcSwap::default(),
            refused: ArcSwap::default(),
            resting: ArcSwap::default(),
            changed: watch::Sender::new(0),
            scanned: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// The version that serves a call; without one named, the highest that is ready.
    pub(crate) fn find(&self, name: &ModelName, version: Option<ModelVersion>) -> Result<Arc<Model>, Fault> {
        let table = self.table.load();
        let versions = table.get(name).ok_or_else(|| unknown(name, &table))?;
        let entry = match version {
            Some(version) => {
                versions.get(&version).ok_or_else(|| self.unknown_version(name, version, versions))?
            }
            None => latest(versions).ok_or_else(|| unknown(name, &table))?,
        };
        entry.model.clone().ok_or_else(|| unavailable(&entry.info))
    }

    /// The versions that serve.
    pub(crate) fn serving(&self) -> Vec<Arc<Model>> {
        let table = self.table.load();
        table.values().flat_map(BTreeMap::values).filter_map(|entry| entry.model.clone()).collect()
    }

    /// One version; without one named, the one that would serve.
    pub(crate) fn get(&self, name: &ModelName, version: Option<ModelVersion>) -> Result<ModelInfo, Fault> {
        let table = self.table.load();
        let versions = table.get(name).ok_or_else(|| unknown(name, &table))?;
        match version {
            Some(version) => {
                versions.get(&version).ok_or_else(|| self.unknown_version(name, version, versions))
            }
            None => latest(versions).ok_or_else(|| unknown(name, &table)),
        }
        .map(|entry| entry.info.clone())
    }

    /// All versions, by name and number.
    pub(crate) fn all(&self) -> Vec<ModelInfo> {
        let table = self.table.load();
        table.values().flat_map(BTreeMap::values).map(|entry| entry.info.clone()).collect()
    }

    /// What the versions that serve have done; of this model and version, where they are named.
    pub(crate) fn statistics(&self, of: &StatisticsParams) -> Result<Vec<ModelStatistics>, Fault> {
        let table = self.table.load();
        if let Some(name) = &of.model {
            let versions = table.get(name).ok_or_else(|| unknown(name, &table))?;
            if let Some(version) = of.version.filter(|version| !versions.contains_key(version)) {
                return Err(self.unknown_version(name, version, versions));
            }
        }
        let models = table.values().flat_map(BTreeMap::values).filter_map(|entry| entry.model.as_ref());
        let asked = |model: &&Arc<Model>| {
            of.model.as_ref().is_none_or(|name| *name == model.id.name)
                && of.version.is_none_or(|version| version == model.id.version)
        };
        Ok(models.filter(asked).map(|model| model.counters.read(&model.id)).collect())
    }

    /// What the repository holds that has no name to be listed under.
    pub(crate) fn refused(&self) -> Vec<Refused> {
        Vec::clone(&self.refused.load())
    }

    pub(crate) fn set_refused(&self, refused: Vec<Refused>) {
        self.refused.store(Arc::new(refused));
    }

    /// Whether everything that was found at the start is loaded or has a reason why not.
    pub(crate) fn is_scanned(&self) -> bool {
        self.scanned.load(Ordering::Acquire)
    }

    pub(crate) fn set_scanned(&self) {
        self.scanned.store(true, Ordering::Release);
        self.tell();
    }

    /// Takes every version out of service for good; what they have, they finish.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.table.store(Arc::default());
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Counts changes.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The version serves now, and those that it takes over from are gone from the list, in one change: at no moment
    /// does none of them serve. They finish what they have.
    pub(crate) fn serve(&self, model: Arc<Model>, slots: u32, retire: &[ModelVersion]) {
        let Signature { inputs, outputs } = Signature::clone(&model.signature);
        let VersionId { name, version } = model.id.clone();
        let state = ModelState::Ready;
        let tasks = model.tasks.list();
        let engine = Some(Box::new(model.info.clone()));
        let info = ModelInfo { name, version, state, reason: None, inputs, outputs, slots, tasks, engine };
        let id = model.id.clone();
        self.put(&id, &Entry { info, model: Some(model) }, retire);
    }

    /// Takes versions off the list.
    pub(crate) fn forget(&self, name: &ModelName, versions: &[ModelVersion]) {
        let is_known = |table: &Table| {
            table.get(name).is_some_and(|known| versions.iter().any(|version| known.contains_key(version)))
        };
        if !is_known(&self.table.load()) {
            return;
        }
        self.table.rcu(|table| {
            let mut table = Table::clone(table);
            if let Some(known) = table.get_mut(name) {
                known.retain(|version, _| !versions.contains(version));
                if known.is_empty() {
                    table.remove(name);
                }
            }
            table
        });
        self.tell();
    }

    /// Says something of a version that goes on serving.
    pub(crate) fn note(&self, id: &VersionId, note: Option<&str>) {
        let table = self.table.load();
        let Some(entry) = table.get(&id.name).and_then(|versions| versions.get(&id.version)) else { return };
        let reason = note.map(|note| clipped(note, REASON_CHARS_MAX));
        if entry.info.reason != reason {
            let info = ModelInfo { reason, ..entry.info.clone() };
            self.put(id, &Entry { info, model: entry.model.clone() }, &[]);
        }
    }

    /// The versions that the repository holds and that do not serve, by model.
    pub(crate) fn set_resting(&self, resting: Resting) {
        self.resting.store(Arc::new(resting));
    }

    /// The version that would serve a call, if a call makes the node load it.
    pub(crate) fn on_demand(&self, name: &ModelName, version: Option<ModelVersion>) -> Option<VersionId> {
        let table = self.table.load();
        let versions = table.get(name)?;
        let entry = match version {
            Some(version) => versions.get(&version)?,
            None => latest(versions)?,
        };
        let info = &entry.info;
        (entry.model.is_none() && is_on_demand(info))
            .then(|| VersionId { name: info.name.clone(), version: info.version })
    }

    /// The version does not serve, or not any more; gives what served until now.
    pub(crate) fn set_aside(
        &self,
        id: &VersionId,
        state: ModelState,
        reason: Option<&str>,
    ) -> Option<Arc<Model>> {
        self.set_away(id, state, reason, false)
    }

    /// The same, and whether a call makes the node load it. What was known of it is told on.
    pub(crate) fn set_away(
        &self,
        id: &VersionId,
        state: ModelState,
        reason: Option<&str>,
        on_demand: bool,
    ) -> Option<Arc<Model>> {
        let before = self.table.load_full();
        let before = before.get(&id.name).and_then(|versions| versions.get(&id.version));
        let known = |entry: &Entry| {
            let ModelInfo { inputs, outputs, tasks, engine, .. } = &entry.info;
            (inputs.clone(), outputs.clone(), tasks.clone(), engine.clone())
        };
        let (inputs, outputs, tasks, mut engine) = before.map(known).unwrap_or_default();
        if on_demand || engine.is_some() {
            engine.get_or_insert_default().on_demand = on_demand;
        }
        let info = ModelInfo {
            name: id.name.clone(),
            version: id.version,
            state,
            reason: reason.map(|reason| clipped(reason, REASON_CHARS_MAX)),
            inputs,
            outputs,
            slots: 0,
            tasks,
            engine,
        };
        if before.is_some_and(|entry| entry.model.is_none() && entry.info == info) {
            return None;
        }
        self.put(id, &Entry { info, model: None }, &[])
    }

    /// A session of this load is lost: the version is out of service, unless it was loaded again meanwhile. A node that
    /// served on with fewer slots than it tells would be given more than it can do.
    pub(crate) fn lose(&self, id: &VersionId, serial: u64, reason: &str) {
        let serves = self.find(&id.name, Some(id.version));
        if serves.is_ok_and(|model| model.serial == serial) {
            self.set_aside(id, ModelState::Unavailable, Some(reason));
        }
    }

    /// Puts the entry in its place, takes those off the list, and gives what served there.
    fn put(&self, id: &VersionId, entry: &Entry, retire: &[ModelVersion]) -> Option<Arc<Model>> {
        let before = self.table.rcu(|table| {
            // Looked at here, where a table that was closed meanwhile is seen: nothing is put on it any more.
            if self.is_closed() {
                return Table::new();
            }
            let mut table = Table::clone(table);
            let versions = table.entry(id.name.clone()).or_default();
            versions.retain(|version, _| !retire.contains(version));
            versions.insert(id.version, entry.clone());
            table
        });
        self.tell();
        before.get(&id.name).and_then(|versions| versions.get(&id.version)?.model.clone())
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn unknown_version(
        &self,
        name: &ModelName,
        version: ModelVersion,
        versions: &BTreeMap<ModelVersion, Entry>,
    ) -> Fault {
        let numbers: Vec<String> = versions.keys().rev().take(16).map(ToString::to_string).collect();
        let has = numbers.join(", ");
        let text = match self.resting.load().get(name) {
            Some((resting, policy)) if resting.contains(&version) => format!(
                "this node does not serve version {version} of {name}, which its repository holds: of this model \
                 serve {policy} (the key versions of its settings), which is {has}"
            ),
            Some(_) | None => format!("this node has no version {version} of {name}: it has {has}"),
        };
        Fault::new(FaultCode::ModelNotFound, text)
    }
}

/// Shortens a list to what fits a document.
pub(crate) fn fitting(mut infos: Vec<ModelInfo>) -> Vec<ModelInfo> {
    let mut left = LIST_BYTES_MAX;
    for info in &mut infos {
        // Generous: map keys, numbers and headers included.
        let head = 160 + info.name.as_str().len() + info.reason.as_ref().map_or(0, |text| 4 * text.len());
        left = left.saturating_sub(head);
        let specs = info.inputs.iter().chain(&info.outputs);
        let detail: usize = specs.map(|spec| 48 + spec.name.len() + 9 * spec.shape.len()).sum();
        match left.checked_sub(detail) {
            Some(rest) => left = rest,
            None => (info.inputs, info.outputs) = (Vec::new(), Vec::new()),
        }
        let Some(engine) = info.engine.as_deref_mut() else { continue };
        // What balancers go by stays in any case; what people read goes first.
        match left.checked_sub(engine_bytes(engine)) {
            Some(rest) => left = rest,
            None if engine.on_demand || engine.stateful => {
                let EngineInfo { on_demand, stateful, .. } = *engine;
                *engine = EngineInfo { on_demand, stateful, ..EngineInfo::default() };
            }
            None => info.engine = None,
        }
    }
    infos
}

/// Bytes of an engine's info in a document, generously.
fn engine_bytes(engine: &EngineInfo) -> usize {
    let EngineInfo { sha256, provider, finding, warnings, versions, .. } = engine;
    let versions = match versions {
        Some(VersionPolicy::Specific(versions)) => 22 * versions.len(),
        Some(VersionPolicy::All | VersionPolicy::Latest(_)) | None => 0,
    };
    let warnings: usize = warnings.iter().map(|warning| 8 + 4 * warning.len()).sum();
    480 + sha256.len() + provider.len() + 4 * finding.len() + warnings + versions
}

/// The version that serves when none is named: the highest that is ready, else the highest that a call makes ready, else
/// the highest.
fn latest(versions: &BTreeMap<ModelVersion, Entry>) -> Option<&Entry> {
    let mut highest_first = versions.values().rev();
    let ready = highest_first.clone().find(|entry| entry.model.is_some());
    ready
        .or_else(|| highest_first.clone().find(|entry| is_on_demand(&entry.info)))
        .or_else(|| highest_first.next())
}

fn is_on_demand(info: &ModelInfo) -> bool {
    info.engine.as_ref().is_some_and(|engine| engine.on_demand)
}

fn unknown(name: &ModelName, table: &Table) -> Fault {
    let names: Vec<&str> = table.keys().map(ModelName::as_str).take(16).collect();
    let text = match names.is_empty() {
        true => format!("this node has no model {name}: its repository is empty"),
        false => format!("this node has no model {name}: it has {}", names.join(", ")),
    };
    Fault::new(FaultCode::ModelNotFound, text)
}

fn unavailable(info: &ModelInfo) -> Fault {
    let ModelInfo { name, version, state, reason, .. } = info;
    let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let text = format!("{name} version {version} is {} on this node{reason}", state.as_str());
    let fault = Fault::new(FaultCode::ModelUnavailable, text);
    match state {
        ModelState::Loading => fault.retry_after_ms(LOADING_RETRY_MS),
        ModelState::Ready | ModelState::Unloading | ModelState::Unavailable => fault,
    }
}

#[cfg(test)]
mod tests {
    use lineside_wire::{Datatype, TensorSpec};

    use super::*;

    fn id(name: &str, version: u64) -> VersionId {
        VersionId { name: name.parse().unwrap(), version: ModelVersion(version) }
    }

    #[test]
    fn what_does_not_serve_says_why() {
        let shelf = Shelf::new();
        let weld = id("weld", 3);
        assert!(shelf.find(&weld.name, None).err().unwrap().message.contains("repository is empty"));
        shelf.set_aside(&weld, ModelState::Loading, None);
        let loading = shelf.find(&weld.name, None).err().unwrap();
        assert_eq!((loading.code, loading.retry_after_ms), (FaultCode::ModelUnavailable, Some(500)));
        shelf.set_aside(&weld, ModelState::Unavailable, Some("not an ONNX model"));
        let broken = shelf.find(&weld.name, Some(weld.version)).err().unwrap();
        assert!(broken.message.contains("weld version 3 is UNAVAILABLE on this node: not an ONNX model"));
        let other = shelf.find(&weld.name, Some(ModelVersion(4))).err().unwrap();
        assert_eq!(other.code, FaultCode::ModelNotFound);
        assert!(other.message.contains("it has 3"), "{other}");
    }

    #[test]
    fn a_version_that_rests_is_told_from_one_that_is_not_there() {
        let shelf = Shelf::new();
        shelf.set_aside(&id("weld", 3), ModelState::Loading, None);
        let resting = (vec![ModelVersion(1)], "the latest version".to_owned());
        shelf.set_resting(BTreeMap::from([("weld".parse().unwrap(), resting)]));
        let told =
            |version| shelf.find(&id("weld", 1).name, Some(ModelVersion(version))).err().unwrap().message;
        assert!(
            told(1).contains("serve the latest version") && told(1).contains("which is 3"),
            "{}",
            told(1)
        );
        assert!(told(2).contains("has no version 2"), "{}", told(2));
        shelf.forget(&id("weld", 3).name, &[ModelVersion(3)]);
        assert!(shelf.all().is_empty());
    }

    #[test]
    fn a_version_that_comes_with_a_call_is_found_before_a_broken_one() {
        let shelf = Shelf::new();
        let weld = id("weld", 1);
        shelf.set_aside(&id("weld", 2), ModelState::Unavailable, Some("broken"));
        assert_eq!(shelf.on_demand(&weld.name, None), None);
        shelf.set_away(&weld, ModelState::Unavailable, Some("loads at the first request"), true);
        let changes = *shelf.changed().borrow();
        shelf.set_away(&weld, ModelState::Unavailable, Some("loads at the first request"), true);
        assert_eq!(*shelf.changed().borrow(), changes, "no news");
        assert_eq!(shelf.on_demand(&weld.name, None), Some(weld.clone()));
        assert_eq!(shelf.on_demand(&weld.name, Some(ModelVersion(2))), None);
        assert!(shelf.all()[0].engine.as_ref().unwrap().on_demand);
        shelf.set_aside(&weld, ModelState::Unavailable, Some("unloaded"));
        assert_eq!(shelf.on_demand(&weld.name, None), None);
    }

    #[test]
    fn every_change_is_told() {
        let shelf = Shelf::new();
        let changed = shelf.changed();
        shelf.set_aside(&id("weld", 1), ModelState::Loading, None);
        shelf.set_aside(&id("weld", 1), ModelState::Unavailable, Some("x"));
        shelf.set_scanned();
        assert_eq!(*changed.borrow(), 3);
    }

    #[test]
    fn a_long_list_fits_a_document() {
        let spec = TensorSpec { name: "x".repeat(60), datatype: Datatype::Fp32, shape: vec![-1; 8] };
        let one = |version| ModelInfo {
            name: "weld".parse().unwrap(),
            version: ModelVersion(version),
            state: ModelState::Ready,
            reason: None,
            inputs: vec![spec.clone(); 20],
            outputs: Vec::new(),
            slots: 1,
            tasks: Vec::new(),
            engine: None,
        };
        let list = fitting((0..64).map(one).collect());
        assert_eq!(list.len(), 64);
        assert!(!list[0].inputs.is_empty() && list[63].inputs.is_empty());
        let frame = lineside_wire::EncodedFrame::response(
            lineside_wire::RequestId(1),
            &lineside_wire::ModelsResult { models: list },
            None,
            lineside_wire::PayloadBuilder::new(),
        );
        assert!(frame.len() < 64 << 10, "{}", frame.len());
    }
}
