//! What is asked of all nodes at once: whom to ask, and what their answers come to together. Pure.

use std::collections::{BTreeMap, btree_map::Entry};

use lineside_client::{Roster, Standing};
use lineside_gateway::Change;
use lineside_mesh::Destination;
use lineside_wire::{
    BatchStatistics, ChangeParams, ChangeResult, Fault, FaultCode, MemberRow, MembersResult, ModelInfo,
    ModelState, ModelStatistics, ModelsResult, NodeChange, NodeId, Role, Spent, StatisticsResult,
};

/// Why there is no answer.
pub(super) enum NoAnswer {
    /// It refused.
    Refused(Fault),
    /// Its answer did not come; it may still be at work.
    Late,
    /// It was not reached, or lost.
    Lost(String),
}

/// A node that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) to: Destination,
    pub(super) name: String,
}

/// The nodes that are there and run models.
pub(super) fn nodes(rows: &[MemberRow]) -> Vec<Asked> {
    rows.iter().filter(|row| is_node(row) && is_present(row)).map(asked).collect()
}

/// Whom a change goes to: the nodes that are named, else those that have the model. For loading that is every node: a
/// file may have been put there that no list names yet. Behind them, those that were named and cannot be asked.
pub(super) fn targets(
    rows: &[MemberRow],
    change: Change,
    params: &ChangeParams,
) -> (Vec<Asked>, Vec<NodeChange>) {
    if params.nodes.is_empty() {
        let lists = |row: &MemberRow| {
            row.member.as_ref().is_some_and(|state| state.models.iter().any(|own| own.name == params.model))
        };
        let wanted = |row: &&MemberRow| match change {
            Change::Load => true,
            Change::Unload => lists(row),
        };
        let there = rows.iter().filter(|row| is_node(row) && is_present(row));
        return (there.filter(wanted).map(asked).collect(), Vec::new());
    }
    let (mut able, mut unable) = (Vec::new(), Vec::new());
    let mut named = params.nodes.clone();
    named.sort_unstable();
    named.dedup();
    for node in named {
        match rows.iter().find(|row| row.node == node) {
            Some(row) if !is_node(row) => unable.push(failed(row, "it runs no models")),
            Some(row) if !is_present(row) => unable.push(failed(row, &format!("it is {}", row.state))),
            Some(row) => able.push(asked(row)),
            None => unable.push(NodeChange {
                node,
                name: node.short().to_string(),
                done: false,
                absent: false,
                reason: Some("there is no member with this id".to_owned()),
            }),
        }
    }
    (able, unable)
}

fn is_node(row: &MemberRow) -> bool {
    row.role == Some(Role::Node)
}

fn is_present(row: &MemberRow) -> bool {
    row.state.parse().is_ok_and(Standing::is_present)
}

fn asked(row: &MemberRow) -> Asked {
    Asked { to: Destination { node: row.node, address: row.address }, name: row.name.clone() }
}

fn failed(row: &MemberRow, reason: &str) -> NodeChange {
    let reason = Some(reason.to_owned());
    NodeChange { node: row.node, name: row.name.clone(), done: false, absent: false, reason }
}

/// What became of a change on one node.
pub(super) fn outcome(
    change: Change,
    params: &ChangeParams,
    asked: &Asked,
    answer: &Result<ModelsResult, NoAnswer>,
) -> NodeChange {
    let (done, absent, reason) = match answer {
        Ok(list) => match list.models.iter().find(|model| has_failed(change, params, model)) {
            Some(model) => (false, false, Some(model.reason.clone().unwrap_or_default())),
            None => (true, false, None),
        },
        Err(NoAnswer::Refused(fault)) if fault.code == FaultCode::ModelNotFound => (false, true, None),
        Err(NoAnswer::Refused(fault)) => (false, false, Some(fault.to_string())),
        Err(NoAnswer::Late) => {
            (false, false, Some("it did not answer in time; it may still be at work".to_owned()))
        }
        Err(NoAnswer::Lost(reason)) => (false, false, Some(reason.clone())),
    };
    NodeChange { node: asked.to.node, name: asked.name.clone(), done, absent, reason }
}

/// A model that was to be loaded and cannot serve is no success, though the node did answer.
fn has_failed(change: Change, params: &ChangeParams, model: &ModelInfo) -> bool {
    let is_it = model.name == params.model && params.version.is_none_or(|version| version == model.version);
    match change {
        Change::Load => is_it && model.state == ModelState::Unavailable,
        Change::Unload => false,
    }
}

/// The whole of a change. The models are those of the roster with what the nodes have just said: it reaches the roster
/// a moment later.
pub(super) fn changed(
    rows: &[MemberRow],
    params: &ChangeParams,
    said: &[(NodeId, ModelsResult)],
    mut nodes: Vec<NodeChange>,
) -> ChangeResult {
    let mut rows = rows.to_vec();
    for (node, list) in said {
        let row = rows.iter_mut().find(|row| row.node == *node);
        let Some(state) = row.and_then(|row| row.member.as_mut()) else { continue };
        for model in list.models.iter().filter(|model| model.name == params.model) {
            state.models.retain(|own| (&own.name, own.version) != (&model.name, model.version));
            state.models.push(model.clone());
        }
    }
    let (cluster, nobody) = (lineside_wire::ClusterId::from_bytes([0; 16]), NodeId::from_bytes([0; 16]));
    let roster = Roster::new(MembersResult { cluster, answered_by: nobody, members: rows });
    let models = roster.models().iter().filter(|model| model.name == params.model).cloned().collect();
    nodes.sort_by(|a, b| (&a.name, a.node).cmp(&(&b.name, b.node)));
    ChangeResult { models, nodes }
}

/// Whether the roster's rows show what the nodes have said of the model: who serves it, and who no longer does. A node that
/// is gone shows nothing else later on.
pub(super) fn shows(rows: &[MemberRow], params: &ChangeParams, said: &[(NodeId, ModelsResult)]) -> bool {
    let is_ready = |model: &ModelInfo| model.state == ModelState::Ready;
    said.iter().all(|(node, list)| {
        let row = rows.iter().find(|row| row.node == *node && is_present(row));
        let Some(state) = row.and_then(|row| row.member.as_ref()) else { return true };
        list.models.iter().filter(|model| model.name == params.model).all(|model| {
            let own =
                state.models.iter().find(|own| (&own.name, own.version) == (&model.name, model.version));
            own.is_some_and(is_ready) == is_ready(model)
        })
    })
}

/// The sums over the nodes, by name and version.
pub(super) fn sum(answers: impl IntoIterator<Item = StatisticsResult>) -> StatisticsResult {
    let mut sums = BTreeMap::new();
    for model in answers.into_iter().flat_map(|answer| answer.models) {
        match sums.entry((model.name.clone(), model.version)) {
            Entry::Vacant(vacant) => drop(vacant.insert(model)),
            Entry::Occupied(mut sum) => add(sum.get_mut(), &model),
        }
    }
    StatisticsResult { models: sums.into_values().collect() }
}

fn add(sum: &mut ModelStatistics, one: &ModelStatistics) {
    sum.last_inference_ms = sum.last_inference_ms.max(one.last_inference_ms);
    for (sum, one) in [
        (&mut sum.inference_count, one.inference_count),
        (&mut sum.execution_count, one.execution_count),
        (&mut sum.expired, one.expired),
        (&mut sum.rejected, one.rejected),
        (&mut sum.stopped, one.stopped),
        // Of all nodes together, as every other number here.
        (&mut sum.memory_bytes, one.memory_bytes),
    ] {
        *sum = sum.saturating_add(one);
    }
    for (level, one) in one.shed.iter().enumerate() {
        match sum.shed.get_mut(level) {
            Some(sum) => *sum = sum.saturating_add(*one),
            None => sum.shed.push(*one),
        }
    }
    for (sum, one) in [
        (&mut sum.success, one.success),
        (&mut sum.fail, one.fail),
        (&mut sum.queue, one.queue),
        (&mut sum.compute_input, one.compute_input),
        (&mut sum.compute_infer, one.compute_infer),
        (&mut sum.compute_output, one.compute_output),
        (&mut sum.cache_hit, one.cache_hit),
        (&mut sum.cache_miss, one.cache_miss),
        (&mut sum.cancel, one.cancel),
    ] {
        spend(sum, one);
    }
    let mut batches: BTreeMap<u64, BatchStatistics> =
        sum.batches.drain(..).map(|batch| (batch.batch_size, batch)).collect();
    for one in &one.batches {
        let sum = batches
            .entry(one.batch_size)
            .or_insert(BatchStatistics { batch_size: one.batch_size, ..BatchStatistics::default() });
        spend(&mut sum.compute_input, one.compute_input);
        spend(&mut sum.compute_infer, one.compute_infer);
        spend(&mut sum.compute_output, one.compute_output);
    }
    sum.batches = batches.into_values().collect();
}

fn spend(sum: &mut Spent, one: Spent) {
    sum.count = sum.count.saturating_add(one.count);
    sum.ns = sum.ns.saturating_add(one.ns);
}

#[cfg(test)]
mod tests {
    use lineside_wire::{LoadReport, MemberState, ModelVersion, TrustStamp};

    use super::*;

    fn model(name: &str, state: ModelState) -> ModelInfo {
        ModelInfo {
            name: name.parse().expect("a name"),
            version: ModelVersion(1),
            state,
            reason: (state == ModelState::Unavailable).then(|| "it is no ONNX model".to_owned()),
            inputs: Vec::new(),
            outputs: Vec::new(),
            slots: 1,
            tasks: Vec::new(),
            engine: None,
        }
    }

    fn row(id: u8, name: &str, state: &str, role: Role, models: Vec<ModelInfo>) -> MemberRow {
        let (node, address) = (NodeId::from_bytes([id; 16]), ([10, 0, 0, id], 7443).into());
        let load = LoadReport { running: 0, queued: 0, slots: 1, limit: 0, call_us: 0 };
        MemberRow {
            node,
            name: name.to_owned(),
            address,
            state: state.to_owned(),
            role: Some(role),
            member: Some(MemberState {
                node,
                name: name.to_owned(),
                role,
                software: "0.1.0".to_owned(),
                address,
                http: None,
                door: false,
                epoch: 1,
                revision: 1,
                draining: false,
                cordoned: false,
                weight: 100,
                load,
                models,
                certificate_expires: 0,
                certificate_generation: 1,
                trust: TrustStamp::default(),
                authority: false,
            }),
            seen_ms_ago: 0,
            in_flight: 0,
            p95_us: None,
            calls: 0,
            failures: 0,
            rests: None,
            ejections: std::collections::BTreeMap::new(),
            clock_ahead_ms: None,
            double: None,
        }
    }

    /// press has the model, glue has not, weld is down, door runs none.
    fn floor() -> Vec<MemberRow> {
        vec![
            row(1, "press", "alive", Role::Node, vec![model("add", ModelState::Ready)]),
            row(2, "glue", "alive", Role::Node, Vec::new()),
            row(3, "weld", "down", Role::Node, vec![model("add", ModelState::Ready)]),
            row(4, "door", "alive", Role::Gateway, Vec::new()),
        ]
    }

    fn params(nodes: &[u8]) -> ChangeParams {
        let nodes = nodes.iter().map(|id| NodeId::from_bytes([*id; 16])).collect();
        ChangeParams { model: "add".parse().expect("a name"), version: None, nodes }
    }

    fn names(asked: &[Asked]) -> Vec<&str> {
        asked.iter().map(|asked| asked.name.as_str()).collect()
    }

    #[test]
    fn loading_asks_every_node_that_is_there_and_unloading_those_that_have_it() {
        let (asked, unable) = targets(&floor(), Change::Load, &params(&[]));
        assert_eq!((names(&asked), unable.len()), (vec!["press", "glue"], 0));
        let (asked, unable) = targets(&floor(), Change::Unload, &params(&[]));
        assert_eq!((names(&asked), unable.len()), (vec!["press"], 0));
    }

    #[test]
    fn who_is_named_and_cannot_be_asked_is_told_with_the_reason() {
        let (asked, unable) = targets(&floor(), Change::Unload, &params(&[2, 3, 4, 9, 9]));
        assert_eq!(names(&asked), ["glue"]);
        let told: Vec<_> = unable.iter().map(|one| one.reason.as_deref().unwrap_or_default()).collect();
        assert_eq!(told, ["it is down", "it runs no models", "there is no member with this id"]);
        assert!(unable.iter().all(|one| !one.done && !one.absent));
    }

    #[test]
    fn a_node_did_it_has_it_not_or_says_why_not() {
        let press = asked(&floor()[0]);
        let become_of = |change, answer| {
            let NodeChange { done, absent, reason, .. } = outcome(change, &params(&[]), &press, &answer);
            (done, absent, reason)
        };
        let said = |state| Ok(ModelsResult { models: vec![model("add", state)] });
        assert_eq!(become_of(Change::Load, said(ModelState::Ready)), (true, false, None));
        assert_eq!(become_of(Change::Unload, said(ModelState::Unavailable)), (true, false, None));
        let broken = become_of(Change::Load, said(ModelState::Unavailable));
        assert_eq!(broken, (false, false, Some("it is no ONNX model".to_owned())));
        let fault = |code| Err(NoAnswer::Refused(Fault::new(code, "no")));
        assert_eq!(become_of(Change::Load, fault(FaultCode::ModelNotFound)), (false, true, None));
        for answer in [fault(FaultCode::Busy), Err(NoAnswer::Late), Err(NoAnswer::Lost("gone".to_owned()))] {
            let (done, absent, reason) = become_of(Change::Load, answer);
            assert!(!done && !absent && reason.is_some_and(|reason| !reason.is_empty()));
        }
    }

    #[test]
    fn the_models_are_told_as_they_are_after_the_change() {
        let said = [(
            NodeId::from_bytes([1; 16]),
            ModelsResult { models: vec![model("add", ModelState::Unavailable)] },
        )];
        let result = changed(&floor()[..2], &params(&[]), &said, Vec::new());
        assert_eq!(result.models.len(), 1);
        assert_eq!(result.models[0].state, ModelState::Unavailable);
    }

    #[test]
    fn a_change_shows_once_every_row_says_what_its_node_has_said() {
        let said = |state| {
            let list = ModelsResult { models: vec![model("add", state)] };
            [(NodeId::from_bytes([1; 16]), list.clone()), (NodeId::from_bytes([3; 16]), list)]
        };
        let shown = |rows: &[MemberRow], state| shows(rows, &params(&[]), &said(state));
        let mut rows = floor();
        assert!(shown(&rows, ModelState::Ready));
        assert!(!shown(&rows, ModelState::Unloading), "press is still said to serve it");
        rows[0] = row(1, "press", "alive", Role::Node, vec![model("add", ModelState::Unloading)]);
        assert!(shown(&rows, ModelState::Unavailable) && !shown(&rows, ModelState::Ready));
        rows[0] = row(1, "press", "alive", Role::Node, Vec::new());
        assert!(shown(&rows, ModelState::Unavailable) && !shown(&rows, ModelState::Ready));
        rows[0] = row(1, "press", "down", Role::Node, Vec::new());
        assert!(shown(&rows, ModelState::Ready), "nobody waits for who is gone");
    }

    #[test]
    fn statistics_are_summed_by_name_and_version() {
        let spent = |count| Spent { count, ns: count * 10 };
        let one = |version, count, last| {
            let batch = BatchStatistics { batch_size: count, compute_infer: spent(1), ..Default::default() };
            ModelStatistics {
                name: "add".parse().expect("a name"),
                version: ModelVersion(version),
                last_inference_ms: last,
                inference_count: count,
                execution_count: count,
                success: spent(count),
                fail: Spent::default(),
                queue: spent(1),
                compute_input: Spent::default(),
                compute_infer: spent(count),
                compute_output: Spent::default(),
                cache_hit: Spent::default(),
                cache_miss: Spent::default(),
                batches: vec![batch],
                cancel: spent(1),
                expired: 2,
                rejected: 3,
                shed: vec![1; usize::try_from(version).expect("small")],
                stopped: 4,
                memory_bytes: 5,
            }
        };
        let answers = [vec![one(1, 2, 50), one(2, 7, 0)], vec![one(1, 3, 40)], vec![one(1, 2, 60)]];
        let sums = sum(answers.map(|models| StatisticsResult { models })).models;
        assert_eq!(sums.len(), 2);
        assert_eq!((sums[0].inference_count, sums[0].last_inference_ms), (7, 60));
        assert_eq!((sums[0].success, sums[0].queue), (spent(7), spent(3)));
        assert_eq!((sums[0].cancel, sums[0].expired, sums[0].rejected), (spent(3), 6, 9));
        assert_eq!((sums[0].stopped, sums[0].memory_bytes), (12, 15));
        assert_eq!((&sums[0].shed[..], &sums[1].shed[..]), (&[3][..], &[1, 1][..]));
        let batches: Vec<_> =
            sums[0].batches.iter().map(|one| (one.batch_size, one.compute_infer.count)).collect();
        assert_eq!(batches, [(2, 2), (3, 1)]);
        assert_eq!(sums[1].inference_count, 7);
    }
}
