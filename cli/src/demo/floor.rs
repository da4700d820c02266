//! The members of the demo: started together, until they are one cluster.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use lineside_client::Client;
use lineside_wire::{MembersResult, ModelState};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use super::{
    home::{GATEWAY, Home, NODES},
    http::HttpCaller,
    process::{LOOK_EVERY, Plan, Process},
    samples::MODEL_COUNT,
    stop::Stop,
};
use crate::{
    exit::{Exit, Failure},
    output::Progress,
};

/// How long the members may look for each other by mDNS. Where multicast works they take about a second, or five
/// when an interface is new: mDNS looks for those every 5 s.
const MDNS_WITHIN: Duration = Duration::from_secs(6);
/// How long they may take with seeds, which are asked at once.
const SEEDS_WITHIN: Duration = Duration::from_secs(15);
/// How long the models may take to load on all nodes.
const MODELS_WITHIN: Duration = Duration::from_secs(60);
/// How long a question to one member may take.
const ASK_WITHIN: Duration = Duration::from_secs(3);
/// How long members may take to end in order before they are killed. Saying goodbye takes about 2 s.
const END_WITHIN: Duration = Duration::from_secs(6);

/// How the members found each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Discovery {
    /// By multicast, without any setting.
    Mdns,
    /// By the address of the first one.
    Seeds,
}

impl Discovery {
    /// For people.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Mdns => "mDNS",
            Self::Seeds => "seeds",
        }
    }
}

/// The members and what they need.
pub(super) struct Floor {
    // Above their home: dropped, and so killed, before it is removed.
    /// The nodes, in the order of [`NODES`], then the gateway; empty until they are started.
    members: Vec<Process>,
    home: Home,
    program: PathBuf,
    library: PathBuf,
    http: SocketAddr,
}

impl Floor {
    /// A floor on which nothing runs yet. `http` is where the gateway will listen; port 0 takes a free one.
    pub(super) fn new(home: Home, program: PathBuf, library: PathBuf, http: SocketAddr) -> Self {
        Self { members: Vec::new(), home, program, library, http }
    }

    /// What is on disk.
    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    /// The binary.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// The nodes.
    pub(super) fn nodes(&self) -> &[Process] {
        self.members.get(..NODES.len()).unwrap_or_default()
    }

    /// The gateway's addresses: for members and clients, and for HTTP.
    ///
    /// # Errors
    /// It is not up.
    pub(super) fn doors(&self) -> Result<(SocketAddr, SocketAddr), Failure> {
        let gateway = self.members.get(NODES.len()).and_then(Process::addresses);
        let doors = gateway.and_then(|gateway| Some((gateway.members, gateway.http?)));
        doors.ok_or_else(|| {
            Failure::new(Exit::Failure, "the gateway serves no HTTP", "it named no address", "")
        })
    }

    /// Starts all members and waits until they are one cluster and every node serves every model.
    ///
    /// # Errors
    /// A member did not come up, or the cluster did not form.
    pub(super) async fn start(&mut self, progress: &mut Progress) -> Result<Discovery, Failure> {
        for name in NODES.into_iter().chain([GATEWAY]) {
            self.members.push(Process::start(self.plan(name, loopback(), None))?);
        }
        progress.step("starting three nodes and a gateway");
        for member in &mut self.members {
            member.up().await?;
        }
        progress.step("waiting until they have found each other by mDNS");
        let mut discovery = Discovery::Mdns;
        if !self.forms_within(MDNS_WITHIN).await? {
            discovery = Discovery::Seeds;
            self.join_by_seed(progress).await?;
            progress.step("waiting until they have found each other by the seed");
            if !self.forms_within(SEEDS_WITHIN).await? {
                return Err(self
                    .not_formed("the members do not find each other, by mDNS or by a seed")
                    .await);
            }
        }
        progress.step("waiting until every node has loaded every model");
        self.wait_for_models().await?;
        Ok(discovery)
    }

    fn plan(&self, name: &'static str, listen: SocketAddr, seed: Option<SocketAddr>) -> Plan {
        Plan {
            name,
            program: self.program.clone(),
            arguments: self.arguments(name, listen, seed),
            data: self.home.data(name),
            log: self.home.logs().join(format!("{name}.log")),
        }
    }

    fn arguments(&self, name: &str, listen: SocketAddr, seed: Option<SocketAddr>) -> Vec<OsString> {
        let command = if name == GATEWAY { "gateway" } else { "node" };
        let mut arguments: Vec<OsString> = vec![command.into()];
        let mut flag = |flag: &str, value: OsString| arguments.extend([flag.into(), value]);
        flag("--config", self.home.settings().into());
        flag("--data-dir", self.home.data(name).into());
        flag("--name", name.into());
        flag("--listen", listen.to_string().into());
        if let Some(seed) = seed {
            flag("--seed", seed.to_string().into());
        }
        if name == GATEWAY {
            flag("--http", self.http.to_string().into());
        } else {
            flag("--models", self.home.models().into());
            flag("--onnxruntime", self.library.clone().into());
        }
        arguments.extend(["--no-init".into(), "--exit-with-parent".into()]);
        arguments
    }

    /// Whether the gateway sees every node alive before this time is over.
    async fn forms_within(&mut self, within: Duration) -> Result<bool, Failure> {
        let until = Instant::now() + within;
        while Instant::now() < until {
            if self.members_list().await.is_some_and(|list| alive(&list) == NODES.len()) {
                return Ok(true);
            }
            self.check()?;
            sleep(LOOK_EVERY).await;
        }
        Ok(false)
    }

    /// Starts those that do not see all others again, with the first one's address.
    async fn join_by_seed(&mut self, progress: &mut Progress) -> Result<(), Failure> {
        let Some(seed) = self.members.first().and_then(Process::addresses) else { return Ok(()) };
        progress.stage(format_args!(
            "not one cluster after {MDNS_WITHIN:?} of mDNS (multicast does not work here): starting again with --seed {}",
            seed.members
        ));
        let mut alone = Vec::new();
        for (index, member) in self.members.iter().enumerate().skip(1) {
            let address = member.addresses().map(|addresses| addresses.members);
            match address {
                Some(address) if self.seen_from(address).await == NODES.len() => {}
                Some(_) | None => alone.push(index),
            }
        }
        alone.iter().for_each(|index| self.members[*index].tell_to_end());
        let until = Instant::now() + END_WITHIN;
        for index in alone {
            let member = &mut self.members[index];
            if !member.gone(until).await {
                member.kill().await;
            }
            let name = member.name();
            self.members[index] = Process::start(self.plan(name, loopback(), Some(seed.members)))?;
        }
        for member in &mut self.members {
            member.up().await?;
        }
        Ok(())
    }

    /// How many living nodes a member knows, itself included.
    async fn seen_from(&self, address: SocketAddr) -> usize {
        let connecting = Client::connect(self.home.client(), [address]);
        let Ok(Ok(client)) = timeout(ASK_WITHIN, connecting).await else { return 0 };
        let list = timeout(ASK_WITHIN, client.members()).await;
        client.close().await;
        list.map_or(0, |list| list.as_ref().map_or(0, alive))
    }

    /// The members as the gateway sees them, if it says so.
    pub(super) async fn members_list(&self) -> Option<MembersResult> {
        let (_, http) = self.doors().ok()?;
        let mut caller = HttpCaller::new(http);
        timeout(ASK_WITHIN, caller.rpc("cluster.members")).await.ok()?.ok()
    }

    async fn wait_for_models(&mut self) -> Result<(), Failure> {
        let until = Instant::now() + MODELS_WITHIN;
        while Instant::now() < until {
            if let Some(list) = self.members_list().await {
                if let Some(reason) = unavailable(&list) {
                    return Err(Failure::new(Exit::Failure, "a sample model does not load", reason, ""));
                }
                if serving(&list) == NODES.len() && self.is_ready().await {
                    return Ok(());
                }
            }
            self.check()?;
            sleep(LOOK_EVERY).await;
        }
        Err(self.not_formed(&format!("not every node serves every model after {MODELS_WITHIN:?}")).await)
    }

    async fn is_ready(&self) -> bool {
        let Ok((_, http)) = self.doors() else { return false };
        let mut caller = HttpCaller::new(http);
        let asked = timeout(ASK_WITHIN, caller.get("/readyz")).await;
        asked.is_ok_and(|answer| answer.is_ok_and(|(status, _)| status.is_success()))
    }

    /// That all members run.
    fn check(&mut self) -> Result<(), Failure> {
        self.members.iter_mut().try_for_each(Process::check)
    }

    async fn not_formed(&self, what: &str) -> Failure {
        let rows = self.members_list().await.map(|list| list.members).unwrap_or_default();
        let seen: Vec<_> = rows.iter().map(|row| format!("{} is {}", row.name, row.state)).collect();
        let why = match seen.is_empty() {
            true => "the gateway sees nobody".to_owned(),
            false => format!("as the gateway sees it, {}", seen.join(", ")),
        };
        Failure::new(
            Exit::Failure,
            what,
            why,
            "see that a firewall lets programs on 127.0.0.1 reach each other by UDP",
        )
    }

    /// Kills a node, as a power cut would.
    pub(super) async fn kill(&mut self, node: &str) {
        if let Some(member) = self.members.iter_mut().find(|member| member.name() == node) {
            member.kill().await;
        }
    }

    /// Starts a node that was killed again, where and as it was, and waits until it is up.
    ///
    /// # Errors
    /// It does not come up.
    pub(super) async fn restart(&mut self, node: &str) -> Result<(), Failure> {
        let Some(index) = self.members.iter().position(|member| member.name() == node) else { return Ok(()) };
        let (name, addresses) = (self.members[index].name(), self.members[index].addresses());
        let listen = addresses.map_or_else(loopback, |addresses| addresses.members);
        // No seed: it remembers those it has met.
        self.members[index] = Process::start(self.plan(name, listen, None))?;
        self.members[index].up().await.map(drop)
    }

    /// Members that ended since this was asked last, with how.
    pub(super) fn newly_ended(&mut self, known: &mut Vec<&'static str>) -> Vec<String> {
        let mut said = Vec::new();
        for member in &mut self.members {
            if let Some(status) = member.ended().filter(|_| !known.contains(&member.name())) {
                known.push(member.name());
                said.push(format!("{} has ended ({status})", member.name()));
            }
        }
        said
    }

    /// Ends all members: the gateway first, so that what it holds still finds nodes. Another signal, or too long a
    /// time, kills them.
    pub(super) async fn end(mut self, stop: &mut Stop) {
        let gateways = self.members.split_off(NODES.len().min(self.members.len()));
        for mut members in [gateways, self.members] {
            members.iter_mut().for_each(Process::tell_to_end);
            let mut until = Instant::now() + END_WITHIN;
            for member in &mut members {
                let is_gone = tokio::select! {
                    is_gone = member.gone(until) => is_gone,
                    () = stop.asked() => false,
                };
                if !is_gone {
                    until = Instant::now();
                    member.kill().await;
                }
            }
        }
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// How many of the nodes are alive.
fn alive(list: &MembersResult) -> usize {
    let is_ours = |name: &str| NODES.contains(&name);
    list.members.iter().filter(|row| row.state == "alive" && is_ours(&row.name)).count()
}

/// How many living nodes serve every model.
pub(super) fn serving(list: &MembersResult) -> usize {
    let serves_all = |row: &&lineside_wire::MemberRow| {
        let models = row.member.iter().flat_map(|member| &member.models);
        row.state == "alive" && models.filter(|model| model.state == ModelState::Ready).count() == MODEL_COUNT
    };
    list.members.iter().filter(serves_all).count()
}

/// Why a model does not serve, if one was given up.
fn unavailable(list: &MembersResult) -> Option<String> {
    list.members.iter().find_map(|row| {
        let models = &row.member.as_ref()?.models;
        let model = models.iter().find(|model| model.state == ModelState::Unavailable)?;
        let reason = model.reason.as_deref().unwrap_or("no reason given");
        Some(format!("{} on {}: {reason}", model.name, row.name))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser as _;
    use lineside_wire::{
        ClusterId, LoadReport, MemberRow, MemberState, ModelInfo, ModelVersion, NodeId, Role,
    };

    use super::*;

    fn model(name: &str, state: ModelState) -> ModelInfo {
        ModelInfo {
            name: name.parse().unwrap(),
            version: ModelVersion(1),
            state,
            reason: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
            slots: 1,
            tasks: Vec::new(),
            engine: None,
        }
    }

    fn row(index: u8, name: &str, state: &str) -> MemberRow {
        let node = NodeId::from_bytes([index; 16]);
        let address = SocketAddr::from(([127, 0, 0, 1], 7443));
        let models =
            ["add", "surface-defects", "vibration-anomaly"].map(|name| model(name, ModelState::Ready));
        let member = MemberState {
            node,
            name: name.into(),
            role: Role::Node,
            software: String::new(),
            address,
            http: None,
            door: false,
            epoch: 1,
            revision: 1,
            draining: false,
            cordoned: false,
            weight: 100,
            load: LoadReport::default(),
            models: models.into(),
            certificate_expires: 0,
            certificate_generation: 1,
            trust: lineside_wire::TrustStamp::default(),
            authority: false,
        };
        MemberRow {
            node,
            name: name.into(),
            address,
            state: state.into(),
            role: Some(Role::Node),
            member: Some(member),
            seen_ms_ago: 0,
            in_flight: 0,
            p95_us: None,
            calls: 0,
            failures: 0,
            clock_ahead_ms: None,
            double: None,
        }
    }

    /// A list of the three nodes, `weld` in this state.
    pub(in super::super) fn list(weld: &str) -> MembersResult {
        let states = ["alive", weld, "alive"];
        let rows = NODES.iter().zip(states).zip(1..).map(|((name, state), index)| row(index, name, state));
        MembersResult {
            cluster: ClusterId::from_bytes([9; 16]),
            answered_by: NodeId::from_bytes([8; 16]),
            members: rows.collect(),
        }
    }

    #[test]
    fn a_cluster_has_formed_when_every_node_is_alive() {
        assert_eq!(alive(&list("alive")), NODES.len());
        assert_eq!(alive(&list("suspect")), NODES.len() - 1);
        assert_eq!(alive(&MembersResult { members: Vec::new(), ..list("alive") }), 0);
        let mut strangers = list("alive");
        strangers.members[0].name = "visitor".into();
        assert_eq!(alive(&strangers), NODES.len() - 1);
    }

    #[test]
    fn a_node_serves_when_all_its_models_do() {
        assert_eq!(serving(&list("alive")), NODES.len());
        let mut list = list("alive");
        let models = &mut list.members[1].member.as_mut().unwrap().models;
        models[0].state = ModelState::Loading;
        assert_eq!((serving(&list), unavailable(&list)), (NODES.len() - 1, None));
        let models = &mut list.members[1].member.as_mut().unwrap().models;
        (models[0].state, models[0].reason) = (ModelState::Unavailable, Some("no opset 99".into()));
        assert_eq!(unavailable(&list).unwrap(), "add on weld: no opset 99");
    }

    #[test]
    fn the_members_are_started_with_flags_that_the_command_line_knows() {
        let http = SocketAddr::from(([127, 0, 0, 1], 8080));
        let floor =
            Floor::new(Home::make().unwrap(), "lineside".into(), "/lib/libonnxruntime.so".into(), http);
        for name in NODES.into_iter().chain([GATEWAY]) {
            for seed in [None, Some(http)] {
                let arguments = floor.arguments(name, loopback(), seed);
                let line = [vec!["lineside".into()], arguments].concat();
                crate::args::Cli::try_parse_from(line).unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }
}
