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
    Fault, FaultCode, ModelInfo, ModelName, ModelState, ModelStatistics, ModelVersion, StatisticsParams,
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
    changed: watch::Sender<u64>,
    scanned: AtomicBool,
    closed: AtomicBool,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        Self {
            table: ArcSwap::default(),
            refused: ArcSwap::default(),
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
                versions.get(&version).ok_or_else(|| unknown_version(name, version, versions))?
            }
            None => latest(versions).ok_or_else(|| unknown(name, &table))?,
        };
        entry.model.clone().ok_or_else(|| unavailable(&entry.info))
    }

    /// Drops the waiting calls of all versions that nobody wants any more, and counts them.
    pub(crate) fn clear_cancelled(&self) -> usize {
        let table = self.table.load();
        let entries = table.values().flat_map(BTreeMap::values);
        entries.filter_map(|entry| entry.model.as_ref()).map(|model| model.clear_cancelled()).sum()
    }

    /// One version; without one named, the one that would serve.
    pub(crate) fn get(&self, name: &ModelName, version: Option<ModelVersion>) -> Result<ModelInfo, Fault> {
        let table = self.table.load();
        let versions = table.get(name).ok_or_else(|| unknown(name, &table))?;
        match version {
            Some(version) => versions.get(&version).ok_or_else(|| unknown_version(name, version, versions)),
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
                return Err(unknown_version(name, version, versions));
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

    /// The version serves now. The one it replaces finishes what it has.
    pub(crate) fn serve(&self, model: Arc<Model>, slots: u32) {
        let Signature { inputs, outputs } = Signature::clone(&model.signature);
        let VersionId { name, version } = model.id.clone();
        let state = ModelState::Ready;
        let tasks = model.tasks.list();
        let info = ModelInfo { name, version, state, reason: None, inputs, outputs, slots, tasks };
        let id = model.id.clone();
        self.put(&id, &Entry { info, model: Some(model) });
    }

    /// The version does not serve, or not any more; gives what served until now.
    pub(crate) fn set_aside(
        &self,
        id: &VersionId,
        state: ModelState,
        reason: Option<&str>,
    ) -> Option<Arc<Model>> {
        let before = self.table.load_full();
        let before = before.get(&id.name).and_then(|versions| versions.get(&id.version));
        let known = |entry: &Entry| {
            let ModelInfo { inputs, outputs, tasks, .. } = &entry.info;
            (inputs.clone(), outputs.clone(), tasks.clone())
        };
        let (inputs, outputs, tasks) = before.map(known).unwrap_or_default();
        let info = ModelInfo {
            name: id.name.clone(),
            version: id.version,
            state,
            reason: reason.map(|reason| clipped(reason, REASON_CHARS_MAX)),
            inputs,
            outputs,
            slots: 0,
            tasks,
        };
        self.put(id, &Entry { info, model: None })
    }

    /// A session of this load is lost: the version is out of service, unless it was loaded again meanwhile. A node that
    /// served on with fewer slots than it tells would be given more than it can do.
    pub(crate) fn lose(&self, id: &VersionId, serial: u64, reason: &str) {
        let serves = self.find(&id.name, Some(id.version));
        if serves.is_ok_and(|model| model.serial == serial) {
            self.set_aside(id, ModelState::Unavailable, Some(reason));
        }
    }

    /// Puts the entry in its place and gives what served there.
    fn put(&self, id: &VersionId, entry: &Entry) -> Option<Arc<Model>> {
        let before = self.table.rcu(|table| {
            // Looked at here, where a table that was closed meanwhile is seen: nothing is put on it any more.
            if self.is_closed() {
                return Table::new();
            }
            let mut table = Table::clone(table);
            table.entry(id.name.clone()).or_default().insert(id.version, entry.clone());
            table
        });
        self.tell();
        before.get(&id.name).and_then(|versions| versions.get(&id.version)?.model.clone())
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
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
    }
    infos
}

/// The version that serves when none is named: the highest that is ready, else the highest.
fn latest(versions: &BTreeMap<ModelVersion, Entry>) -> Option<&Entry> {
    let mut highest_first = versions.values().rev();
    highest_first.clone().find(|entry| entry.model.is_some()).or_else(|| highest_first.next())
}

fn unknown(name: &ModelName, table: &Table) -> Fault {
    let names: Vec<&str> = table.keys().map(ModelName::as_str).take(16).collect();
    let text = match names.is_empty() {
        true => format!("this node has no model {name}: its repository is empty"),
        false => format!("this node has no model {name}: it has {}", names.join(", ")),
    };
    Fault::new(FaultCode::ModelNotFound, text)
}

fn unknown_version(
    name: &ModelName,
    version: ModelVersion,
    versions: &BTreeMap<ModelVersion, Entry>,
) -> Fault {
    let numbers: Vec<String> = versions.keys().rev().take(16).map(ToString::to_string).collect();
    let text = format!("this node has no version {version} of {name}: it has {}", numbers.join(", "));
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
