//! The member list, and what follows from it: who can be called, which models there are, how the cluster is.
//!
//! Pure. A gateway makes it from discovery's view, a client program from a gateway's `cluster.members`; both then
//! say the same about the same cluster.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, btree_map::Entry};

use lineside_wire::{
    ClusterId, ClusterStatus, EngineInfo, LoadReport, MemberRow, MemberState, MembersResult, ModelInfo,
    ModelName, ModelState, ModelVersion, NodeId, Role,
};

use crate::{Candidate, PeerStatistics, Rest, Served, Serves, Standing};

/// A member list at one moment.
#[derive(Clone, Debug)]
pub struct Roster {
    list: MembersResult,
    models: Vec<ModelInfo>,
}

impl Roster {
    /// The roster of a member list. Rows are sorted by name.
    #[must_use]
    pub fn new(mut list: MembersResult) -> Self {
        list.members.sort_by(|a, b| (&a.name, a.node).cmp(&(&b.name, b.node)));
        let models = merge(&list.members);
        Self { list, models }
    }

    /// A roster without members.
    #[must_use]
    pub const fn empty(cluster: ClusterId, answered_by: NodeId) -> Self {
        Self { list: MembersResult { cluster, answered_by, members: Vec::new() }, models: Vec::new() }
    }

    /// The members, without what a balancer knows of them.
    #[must_use]
    pub fn rows(&self) -> &[MemberRow] {
        &self.list.members
    }

    /// The members, with what a balancer knows of them: the answer to `cluster.members`.
    #[must_use]
    pub fn members(&self, statistics: &BTreeMap<NodeId, PeerStatistics>) -> MembersResult {
        let mut list = self.list.clone();
        for row in &mut list.members {
            let Some(known) = statistics.get(&row.node) else { continue };
            row.in_flight = known.in_flight;
            row.p95_us = known.p95.map(|p95| u64::try_from(p95.as_micros()).unwrap_or(u64::MAX));
            row.calls = known.calls;
            row.failures = known.failures;
            row.rests = known.rests.map(|rest| rest.as_str().to_owned());
            let ejections = Rest::ALL.iter().zip(known.ejections).filter(|(_, count)| *count != 0);
            row.ejections = ejections.map(|(rest, count)| (rest.as_str().to_owned(), count)).collect();
        }
        list
    }

    /// The models of all nodes, by name and version: `READY` when at least one node serves it, with the slots of
    /// all that do. Models of nodes that are down stay listed, those of nodes that left or were revoked do not.
    #[must_use]
    pub fn models(&self) -> &[ModelInfo] {
        &self.models
    }

    /// The cluster in numbers: the answer to `cluster.status`.
    #[must_use]
    pub fn status(&self) -> ClusterStatus {
        let is_alive = |row: &&MemberRow| standing(row) == Standing::Alive;
        let alive = self.rows().iter().filter(is_alive).count();
        let nodes = || self.rows().iter().filter(|row| standing(row).is_present()).filter_map(node_of);
        let loads = || nodes().map(|member| member.load);
        let sum = |part: fn(LoadReport) -> u32| loads().map(part).fold(0, u32::saturating_add);
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        ClusterStatus {
            cluster: self.list.cluster,
            answered_by: self.list.answered_by,
            alive: count(alive),
            not_alive: count(self.rows().len() - alive),
            models_ready: count(self.models.iter().filter(|model| model.state == ModelState::Ready).count()),
            models: count(self.models.len()),
            in_flight: sum(|load| load.running.saturating_add(load.queued)),
            slots: sum(|load| load.slots),
        }
    }

    /// Whether there is anybody to take work.
    ///
    /// # Errors
    /// Nobody; the text says why.
    pub fn ready(&self) -> Result<(), String> {
        self.ready_while(None)
    }

    /// [`Self::ready`] while this node still loads what it found at its start: another one must serve.
    ///
    /// # Errors
    /// Nobody takes work; the text says why.
    pub fn ready_while(&self, starts: Option<NodeId>) -> Result<(), String> {
        let nodes: Vec<_> =
            self.rows().iter().filter_map(|row| node_of(row).map(|node| (row, node))).collect();
        if nodes.is_empty() {
            return Err("no node has been found yet; is one running, on this network?".to_owned());
        }
        let mut open =
            nodes.iter().filter(|(row, node)| standing(row).is_present() && !node.draining && !node.cordoned);
        let Some((_, first)) = open.clone().next() else {
            return Err(format!("none of the {} known nodes is alive and takes work", nodes.len()));
        };
        match open.any(|(row, node)| starts != Some(row.node) && !is_starting(node)) {
            true => Ok(()),
            false => {
                let is_done = |model: &&ModelInfo| model.state != ModelState::Loading;
                let done = first.models.iter().filter(is_done).count();
                let name = &first.name;
                Err(match first.models.len() {
                    0 => format!("{name} still looks for its models"),
                    all => format!("the models are still being loaded: {done} of {all} are done on {name}"),
                })
            }
        }
    }

    /// The nodes as candidates for calls of their models. Dead ones too: they know models that others may lack.
    #[must_use]
    pub fn nodes(&self) -> Vec<Candidate> {
        let candidate = |row: &MemberRow| {
            let node = node_of(row)?;
            let served = node.models.iter().map(|model| Served {
                name: model.name.clone(),
                version: model.version,
                state: model.state,
                on_demand: model.engine.as_ref().is_some_and(|engine| engine.on_demand),
            });
            Some(Candidate {
                slots: node.load.slots,
                // Before its first report a node's load is all zeros, and no node runs nothing at once.
                load: (0 < node.load.slots).then_some(node.load),
                serves: Serves::Models(served.collect()),
                // A door beside it works on, with other nodes.
                draining: node.draining || node.cordoned,
                ..candidate(row, node)
            })
        };
        self.rows().iter().filter_map(candidate).collect()
    }

    /// The doors as candidates for calls of any model.
    #[must_use]
    pub fn doors(&self) -> Vec<Candidate> {
        let doors = self.rows().iter().filter_map(|row| {
            let member = row.member.as_ref().filter(|member| member.door)?;
            Some(candidate(row, member))
        });
        doors.collect()
    }
}

/// A candidate for any call. What a door has to do is not known, so all weigh the same.
fn candidate(row: &MemberRow, member: &MemberState) -> Candidate {
    Candidate {
        node: row.node,
        name: member.name.as_str().into(),
        address: row.address,
        standing: standing(row),
        draining: member.draining,
        weight: member.weight,
        epoch: member.epoch,
        slots: 1,
        load: Some(LoadReport::default()),
        serves: Serves::Anything,
    }
}

/// A standing that this release does not know is not trusted with calls.
pub(crate) fn standing(row: &MemberRow) -> Standing {
    row.state.parse().unwrap_or(Standing::Down)
}

fn node_of(row: &MemberRow) -> Option<&MemberState> {
    row.member.as_ref().filter(|member| member.role == Role::Node)
}

/// Whether a node loads its first models: none serves yet. One that loads models when they are asked for is ready for that.
fn is_starting(node: &MemberState) -> bool {
    let mut models = node.models.iter();
    let on_demand = |model: &ModelInfo| model.engine.as_ref().is_some_and(|engine| engine.on_demand);
    models.clone().any(|model| model.state == ModelState::Loading)
        && !models.any(|model| model.state == ModelState::Ready || on_demand(model))
}

/// One list of models out of those of all nodes.
fn merge(rows: &[MemberRow]) -> Vec<ModelInfo> {
    let mut merged: BTreeMap<(ModelName, ModelVersion), ModelInfo> = BTreeMap::new();
    for row in rows {
        let is_missed = !matches!(standing(row), Standing::Left | Standing::Revoked);
        let Some(node) = node_of(row).filter(|_| is_missed) else { continue };
        for model in &node.models {
            let model = as_seen(row, node, model);
            match merged.entry((model.name.clone(), model.version)) {
                Entry::Vacant(place) => drop(place.insert(model)),
                Entry::Occupied(mut place) => combine(place.get_mut(), model),
            }
        }
    }
    merged.into_values().collect()
}

/// A model as far as its node can be called for it.
fn as_seen(row: &MemberRow, node: &MemberState, model: &ModelInfo) -> ModelInfo {
    let why_not = match standing(row) {
        Standing::Alive | Standing::Suspect if node.draining => Some(format!("{} is leaving", node.name)),
        Standing::Alive | Standing::Suspect if node.cordoned => Some(format!("{} is cordoned", node.name)),
        Standing::Alive | Standing::Suspect => None,
        Standing::Down | Standing::Left | Standing::Revoked => Some(format!("{} is down", node.name)),
    };
    let mut model = model.clone();
    if let Some(reason) = why_not {
        model.state = ModelState::Unavailable;
        model.reason = Some(reason);
        // Nobody loads it there for a call.
        if let Some(engine) = &mut model.engine {
            engine.on_demand = false;
        }
    }
    if model.state != ModelState::Ready {
        model.slots = 0;
    }
    model
}

/// Adds what another node says of the same model.
fn combine(model: &mut ModelInfo, other: ModelInfo) {
    const fn rank(state: ModelState) -> u8 {
        match state {
            ModelState::Ready => 0,
            ModelState::Loading => 1,
            ModelState::Unloading => 2,
            ModelState::Unavailable => 3,
        }
    }
    let slots = model.slots.saturating_add(other.slots);
    let (better, worse) =
        if rank(other.state) < rank(model.state) { (other, model.clone()) } else { (model.clone(), other) };
    let knows = !better.inputs.is_empty() || !better.outputs.is_empty();
    let (inputs, outputs) =
        if knows { (better.inputs, better.outputs) } else { (worse.inputs, worse.outputs) };
    let both_serve = better.state == ModelState::Ready && worse.state == ModelState::Ready;
    let engine = match (better.engine, worse.engine) {
        (Some(better), Some(worse)) => Some(agreed(better, &worse, both_serve)),
        (one, other) => one.or(other),
    };
    *model = ModelInfo { inputs, outputs, slots, engine, ..better };
}

/// What two nodes say of how they run one version. What is measured is the better one's, for it depends on the machine.
fn agreed(mut better: Box<EngineInfo>, worse: &EngineInfo, both_serve: bool) -> Box<EngineInfo> {
    const DIFFER: &str = "the nodes have different files of this version, so their answers may differ";
    better.on_demand |= worse.on_demand;
    let are_known = !better.sha256.is_empty() && !worse.sha256.is_empty();
    let differ = both_serve && are_known && better.sha256 != worse.sha256;
    let further = worse.warnings.iter().map(String::as_str).chain(differ.then_some(DIFFER));
    for warning in further {
        if !better.warnings.iter().any(|told| told == warning) {
            better.warnings.push(warning.to_owned());
        }
    }
    better
}
