//! `lineside status`: in one look, whether the cluster is well. The exit code says it too.

mod keys;
mod trust;

use std::{
    fmt::Write as _,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use lineside_client::{Roster, Standing};
use lineside_wire::{ClusterStatus, MemberRow, MembersResult, ModelInfo, ModelState};
use serde::Serialize;

use super::{
    connect::{ConnectArgs, label, not_answered},
    members::newest_trust,
};
use crate::{
    exit::{Exit, Outcome},
    output::{self, Format, FormatArgs, ago},
};

/// `lineside status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    format: FormatArgs,
}

impl StatusArgs {
    /// Says how the cluster is.
    pub(crate) fn run(self) -> Outcome {
        let output = self.format.output;
        self.connect.run(async move |client| {
            let list = client.members().await.map_err(|error| not_answered(&error))?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let mut status = Status::of(list, now);
            status.notes.extend(keys::ending(client.credentials().identity().trust().keys(), now));
            match output {
                Format::Json => output::json(&status)?,
                Format::Table => output::data(status.text())?,
            }
            Ok(if status.degraded { Exit::Degraded } else { Exit::Ok })
        })
    }
}

/// How the cluster is.
#[derive(Debug, Serialize)]
struct Status {
    #[serde(flatten)]
    numbers: ClusterStatus,
    answered_by_name: String,
    doors: Vec<SocketAddr>,
    /// The number of the newest trust list.
    trust: u64,
    /// Members with the authority's key.
    authorities: Vec<String>,
    degraded: bool,
    problems: Vec<String>,
    /// What is no problem yet.
    notes: Vec<String>,
}

impl Status {
    /// `now` is in seconds since 1970.
    fn of(list: MembersResult, now: u64) -> Self {
        let roster = Roster::new(list);
        let rows = roster.rows();
        let numbers = roster.status();
        let answering = rows.iter().find(|row| row.node == numbers.answered_by);
        let mut problems: Vec<_> = rows.iter().filter_map(|row| trouble(rows, row)).collect();
        problems.extend(trust::troubles(rows, now));
        let missed =
            roster.models().iter().filter(|model| model.state != ModelState::Ready && !on_demand(model));
        let (ordered, missed): (Vec<_>, Vec<_>) = missed.partition(|model| by_order(model));
        problems.extend(missed.into_iter().map(nowhere));
        problems.extend(rows.iter().flat_map(|row| not_served(&roster, row)));
        problems.extend(roster.ready().err());
        let is_door = |row: &&MemberRow| row.state.parse().is_ok_and(Standing::is_present);
        let doors = rows.iter().filter(is_door).filter_map(|row| row.member.as_ref()?.http).collect();
        Self {
            answered_by_name: answering.map(|row| label(rows, row)).unwrap_or_default(),
            numbers,
            doors,
            trust: newest_trust(rows),
            authorities: trust::holders(rows),
            degraded: !problems.is_empty(),
            problems,
            notes: ordered
                .into_iter()
                .map(nowhere)
                .chain(rows.iter().filter_map(|row| cordon(rows, row)))
                .collect(),
        }
    }

    fn text(&self) -> String {
        let ClusterStatus { cluster, alive, not_alive, models_ready, models, in_flight, slots, .. } =
            self.numbers;
        let verdict = if self.degraded { "degraded" } else { "well" };
        let doors: Vec<_> = self.doors.iter().map(|door| format!("http://{door}")).collect();
        let doors = if doors.is_empty() { "none".to_owned() } else { doors.join(", ") };
        let authorities = match self.authorities.is_empty() {
            true => "nobody here has the authority's key".to_owned(),
            false => format!("the authority's key is on {}", self.authorities.join(", ")),
        };
        let mut text = format!(
            "cluster  {} is {verdict}, says {}\nmembers  {alive} alive, {not_alive} not\nmodels   {models_ready} of \
             {models} ready\nload     {in_flight} in flight, {slots} slots\ndoors    {doors}\ntrust    list {}, \
             {authorities}\n",
            cluster.short(),
            self.answered_by_name.replace(|c: char| c.is_control(), "?"),
            self.trust,
        );
        let problems = self.problems.iter().map(|problem| ("problem", problem));
        for (kind, line) in problems.chain(self.notes.iter().map(|note| ("note", note))) {
            // Names and reasons come from other machines.
            let line = line.replace(|c: char| c.is_control(), "?");
            writeln!(text, "{kind:<7}  {line}").expect("writing to memory does not fail");
        }
        text
    }
}

/// What is wrong with a member. One that left in good order, or was shut out, is missed by nobody.
fn trouble(rows: &[MemberRow], row: &MemberRow) -> Option<String> {
    let name = label(rows, row);
    let seen = ago(Duration::from_millis(row.seen_ms_ago));
    match row.state.parse() {
        Ok(Standing::Alive | Standing::Left | Standing::Revoked) => None,
        Ok(standing @ (Standing::Suspect | Standing::Down)) => {
            Some(format!("{name} ({}) is {standing}, last seen: {seen}", row.address))
        }
        Err(_) => {
            Some(format!("{name} ({}) is {:?}, which this release does not know", row.address, row.state))
        }
    }
}

/// That an operator keeps work from a member: on purpose, and easily forgotten.
fn cordon(rows: &[MemberRow], row: &MemberRow) -> Option<String> {
    row.member.as_ref().filter(|member| member.cordoned && row.state == "alive")?;
    let name = label(rows, row);
    Some(format!("{name} is cordoned: it takes no new work until `lineside undrain {name}`"))
}

/// That a model serves nowhere.
fn nowhere(model: &ModelInfo) -> String {
    let reason = model.reason.as_deref().unwrap_or(model.state.as_str());
    format!("no node serves {} version {}: {reason}", model.name, model.version)
}

/// Whether it was unloaded on request, or nobody has asked for it yet where only what is asked for is loaded.
fn by_order(model: &ModelInfo) -> bool {
    model.state == ModelState::Unavailable && model.reason.as_deref().is_some_and(lineside_node::is_by_order)
}

/// Whether a request would have it loaded: then it is missed by nobody.
fn on_demand(model: &ModelInfo) -> bool {
    model.engine.as_ref().is_some_and(|engine| engine.on_demand)
}

/// What one node does not serve as it should, while the cluster does: a version that is loaded elsewhere, and files that it
/// could not load in the place of what it serves.
fn not_served(roster: &Roster, row: &MemberRow) -> Vec<String> {
    let is_present = row.state.parse().is_ok_and(Standing::is_present);
    let Some(member) = row.member.as_ref().filter(|member| is_present && !member.draining) else {
        return Vec::new();
    };
    let name = label(roster.rows(), row);
    let served = |own: &ModelInfo| {
        let mut models = roster.models().iter().filter(|model| model.state == ModelState::Ready);
        models.any(|model| model.name == own.name && model.version == own.version)
    };
    let trouble = |own: &ModelInfo| {
        let (model, version, state) = (&own.name, own.version, own.state.as_str());
        match (own.state, &own.reason) {
            (ModelState::Ready, reason) => {
                reason.as_ref().map(|reason| format!("{name} serves {model} version {version}, but {reason}"))
            }
            _ if on_demand(own) || by_order(own) || !served(own) => None,
            (_, reason) => {
                let reason = reason.as_deref().unwrap_or(state);
                Some(format!("{name} does not serve {model} version {version}: {reason}"))
            }
        }
    };
    member.models.iter().filter_map(trouble).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{connect::tests as rows, models::tests::model};

    #[test]
    fn a_cluster_is_well_when_all_are_alive_and_every_model_serves() {
        let mut press = rows::row("press", vec![model("add", ModelState::Ready)]);
        press.member.as_mut().unwrap().http = Some(([10, 0, 0, 7], 8080).into());
        let mut gone = rows::row("gone", Vec::new());
        gone.state = "left".to_owned();
        let status = Status::of(rows::list(vec![press, gone]), 0);
        assert_eq!((status.degraded, &status.problems[..]), (false, &[][..]));
        let text = status.text();
        assert!(
            text.starts_with("cluster  01010101 is well, says press\nmembers  1 alive, 1 not\n"),
            "{text}"
        );
        assert!(
            text.ends_with(
                "load     3 in flight, 4 slots\ndoors    http://10.0.0.7:8080\ntrust    list 0, nobody here has the authority's key\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_member_that_is_down_or_a_model_that_nobody_serves_degrades_it() {
        let mut weld = rows::row("weld", vec![model("defects", ModelState::Ready)]);
        weld.state = "down".to_owned();
        let press = rows::row("press", vec![model("add", ModelState::Ready)]);
        let status = Status::of(rows::list(vec![press, weld]), 0);
        assert!(status.degraded);
        assert_eq!(
            status.problems,
            [
                "weld (10.0.0.7:7443) is down, last seen: now",
                "no node serves defects version 1: weld is down"
            ]
        );
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!((&json["degraded"], &json["not_alive"]), (&true.into(), &1.into()));
    }

    #[test]
    fn a_node_that_serves_less_than_the_others_degrades_it() {
        let mut kept = model("defects", ModelState::Ready);
        kept.reason = Some("its changed files were not loaded".to_owned());
        let mut away = model("defects", ModelState::Unavailable);
        away.engine = Some(Box::new(lineside_wire::EngineInfo {
            on_demand: true,
            ..lineside_wire::EngineInfo::default()
        }));
        let mut gone = rows::row("gone", vec![model("add", ModelState::Unavailable)]);
        gone.state = "left".to_owned();
        let status = Status::of(
            rows::list(vec![
                gone,
                rows::row("press", vec![model("add", ModelState::Ready), kept]),
                rows::row("weld", vec![model("add", ModelState::Unavailable), away.clone()]),
                rows::row("glue", vec![ModelInfo { name: "rare".parse().unwrap(), ..away }]),
            ]),
            0,
        );
        assert_eq!(
            status.problems,
            [
                "press serves defects version 1, but its changed files were not loaded",
                "weld does not serve add version 1: it is no ONNX model"
            ]
        );
    }

    #[test]
    fn what_was_unloaded_on_request_is_noted() {
        let reason = "unloaded on request; load it again to serve it";
        assert!(lineside_node::is_by_order(reason) && !lineside_node::is_by_order("it is no ONNX model"));
        let mut away = model("defects", ModelState::Unavailable);
        away.reason = Some(reason.to_owned());
        let ready = model("add", ModelState::Ready);
        let status = Status::of(rows::list(vec![rows::row("press", vec![ready, away])]), 0);
        assert_eq!((status.degraded, status.notes.len()), (false, 1));
        assert!(status.notes[0].starts_with("no node serves defects"), "{:?}", status.notes);
    }

    #[test]
    fn what_is_only_to_be_noticed_leaves_it_well() {
        let mut status =
            Status::of(rows::list(vec![rows::row("press", vec![model("add", ModelState::Ready)])]), 0);
        status.notes = vec!["a key ends".to_owned()];
        let text = status.text();
        assert!(!status.degraded && text.ends_with("\nnote     a key ends\n"), "{text}");
    }

    #[test]
    fn a_cluster_without_a_node_is_not_well() {
        let mut gate = rows::row("gate", Vec::new());
        gate.role = Some(lineside_wire::Role::Gateway);
        gate.member.as_mut().unwrap().role = lineside_wire::Role::Gateway;
        let status = Status::of(rows::list(vec![gate]), 0);
        assert!(status.degraded && status.problems[0].contains("no node"), "{:?}", status.problems);
    }
}
