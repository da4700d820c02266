//! The members of a local cluster: started together, killed, stopped, started again, ended in order.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use lineside_wire::{MembersResult, ModelState, Role};
use tokio::time::{Instant, sleep, timeout};

use super::{
    home::{Home, Member},
    http::HttpCaller,
    process::{self, LOOK_EVERY, Process},
    stop::Stop,
};
use crate::{
    exit::{Exit, Failure},
    member::AddressFile,
};

/// How long the models may take to load on all nodes.
const MODELS_WITHIN: Duration = Duration::from_secs(60);
/// How long a question to one member may take.
const ASK_WITHIN: Duration = Duration::from_secs(3);
/// How long members may take to end in order before they are killed. Saying goodbye takes about 2 s.
const END_WITHIN: Duration = Duration::from_secs(6);

/// How a member is started.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    /// Who.
    pub(crate) name: &'static str,
    /// Where it listens for members; port 0 takes a free one.
    pub(crate) listen: SocketAddr,
    /// What it tells the others, if that is not where it listens.
    pub(crate) advertise: Option<SocketAddr>,
    /// Whom it asks first.
    pub(crate) seeds: Vec<SocketAddr>,
    /// Whether it looks for others by mDNS.
    pub(crate) mdns: bool,
    /// Where a gateway serves HTTP.
    pub(crate) http: SocketAddr,
}

impl Start {
    /// A member that finds the others by mDNS, at free ports of loopback.
    pub(crate) fn new(name: &'static str) -> Self {
        let (listen, http) = (loopback(), loopback());
        Self { name, listen, advertise: None, seeds: Vec::new(), mdns: true, http }
    }
}

/// The members and what they need.
pub(crate) struct Floor {
    // Above their home: dropped, and so killed, before it is removed.
    members: Vec<(Start, Process)>,
    home: Home,
    program: PathBuf,
    library: PathBuf,
}

impl Floor {
    /// A floor on which nothing runs yet.
    pub(crate) const fn new(home: Home, program: PathBuf, library: PathBuf) -> Self {
        Self { members: Vec::new(), home, program, library }
    }

    /// What is on disk.
    pub(crate) const fn home(&self) -> &Home {
        &self.home
    }

    /// Leaves what is on disk there.
    pub(crate) fn keep(&mut self) {
        self.home.keep();
    }

    /// The binary.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    fn role(&self, name: &str) -> Option<Role> {
        self.home.plan().members.iter().find(|member| member.name == name).map(|member| member.role)
    }

    /// The names of all with this role, in the order of the plan.
    pub(crate) fn names(&self, role: Role) -> impl Iterator<Item = &'static str> {
        let members: &'static [Member] = self.home.plan().members;
        members.iter().filter(move |member| member.role == role).map(|member| member.name)
    }

    /// The members that were started.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Process> {
        self.members.iter().map(|(_, process)| process)
    }

    /// One of them.
    pub(crate) fn member(&self, name: &str) -> Option<&Process> {
        self.members().find(|process| process.name() == name)
    }

    /// Where one of them is reached, once it was up.
    pub(crate) fn addresses(&self, name: &str) -> Option<AddressFile> {
        self.member(name)?.addresses()
    }

    /// A gateway's addresses: for members and clients, and for HTTP.
    ///
    /// # Errors
    /// It is not up.
    pub(crate) fn doors(&self, gateway: &str) -> Result<(SocketAddr, SocketAddr), Failure> {
        let doors = self.addresses(gateway).and_then(|at| Some((at.members, at.http?)));
        doors.ok_or_else(|| {
            Failure::new(Exit::Failure, format!("{gateway} serves no HTTP"), "it named no address", "")
        })
    }

    /// Starts a member, in the place of the one of its name, which has ended.
    ///
    /// # Errors
    /// The system starts no process.
    pub(crate) fn launch(&mut self, start: Start) -> Result<(), Failure> {
        let process = Process::start(process::Plan {
            name: start.name,
            program: self.program.clone(),
            arguments: self.arguments(&start),
            data: self.home.data(start.name),
            log: self.home.logs().join(format!("{}.log", start.name)),
        })?;
        match self.members.iter_mut().find(|(there, _)| there.name == start.name) {
            Some(place) => *place = (start, process),
            None => self.members.push((start, process)),
        }
        Ok(())
    }

    fn arguments(&self, start: &Start) -> Vec<OsString> {
        let is_gateway = self.role(start.name) == Some(Role::Gateway);
        let mut arguments: Vec<OsString> = vec![if is_gateway { "gateway" } else { "node" }.into()];
        let mut flag = |flag: &str, value: OsString| arguments.extend([flag.into(), value]);
        flag("--config", self.home.settings().into());
        flag("--data-dir", self.home.data(start.name).into());
        flag("--name", start.name.into());
        flag("--listen", start.listen.to_string().into());
        if let Some(advertise) = start.advertise {
            flag("--advertise", advertise.to_string().into());
        }
        for seed in &start.seeds {
            flag("--seed", seed.to_string().into());
        }
        if is_gateway {
            flag("--http", start.http.to_string().into());
        } else {
            flag("--models", self.home.models().into());
            flag("--onnxruntime", self.library.clone().into());
        }
        if !start.mdns {
            arguments.push("--no-mdns".into());
        }
        arguments.extend(["--no-init".into(), "--exit-with-parent".into()]);
        arguments
    }

    /// Waits until a member is up.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) async fn up(&mut self, name: &str) -> Result<Option<AddressFile>, Failure> {
        match self.members.iter_mut().find(|(start, _)| start.name == name) {
            Some((_, process)) => process.up().await.map(Some),
            None => Ok(None),
        }
    }

    /// Waits until all members are up.
    ///
    /// # Errors
    /// One does not come up.
    pub(crate) async fn all_up(&mut self) -> Result<(), Failure> {
        for (_, process) in &mut self.members {
            process.up().await?;
        }
        Ok(())
    }

    /// Starts a member that has ended again, where and as it was, and does not wait for it.
    ///
    /// # Errors
    /// The system starts no process.
    pub(crate) fn relaunch(&mut self, name: &str) -> Result<(), Failure> {
        let Some((start, process)) = self.members.iter().find(|(start, _)| start.name == name) else {
            return Ok(());
        };
        let (mut start, addresses) = (start.clone(), process.addresses());
        if let Some(addresses) = &addresses {
            start.listen = addresses.members;
            start.http = addresses.http.unwrap_or(start.http);
        }
        self.launch(start)?;
        if let Some((_, process)) = self.members.iter_mut().find(|(start, _)| start.name == name) {
            process.will_be_at(addresses);
        }
        Ok(())
    }

    /// Kills a member, as a power cut would.
    pub(crate) async fn kill(&mut self, name: &str) {
        if let Some((_, process)) = self.members.iter_mut().find(|(start, _)| start.name == name) {
            process.kill().await;
        }
    }

    /// How a member ended, if it did.
    pub(crate) fn ended(&mut self, name: &str) -> Option<ExitStatus> {
        self.members.iter_mut().find(|(start, _)| start.name == name)?.1.ended()
    }

    /// That all members run but these.
    ///
    /// # Errors
    /// One ended: with the last lines of its log.
    pub(crate) fn check_all_but(&mut self, broken: &BTreeSet<&str>) -> Result<(), Failure> {
        let mut whole = self.members.iter_mut().filter(|(start, _)| !broken.contains(start.name));
        whole.try_for_each(|(_, process)| process.check())
    }

    /// Waits until a member that was told to end has ended; `false` when it still runs then.
    pub(crate) async fn gone(&mut self, name: &str, until: Instant) -> bool {
        match self.members.iter_mut().find(|(start, _)| start.name == name) {
            Some((_, process)) => process.gone(until).await,
            None => true,
        }
    }

    /// Ends members in order, all at once; those that do not are killed. Another signal kills them, too.
    pub(crate) async fn stop(&mut self, names: &[&str]) {
        let mut told: Vec<_> = self
            .members
            .iter_mut()
            .filter(|(start, _)| names.contains(&start.name))
            .map(|(_, process)| process)
            .collect();
        told.iter_mut().for_each(|process| process.tell_to_end());
        let until = Instant::now() + END_WITHIN;
        for process in told {
            if !process.gone(until).await {
                process.kill().await;
            }
        }
    }

    /// The members as the first gateway that answers sees them.
    pub(crate) async fn members_list(&self) -> Option<MembersResult> {
        for gateway in self.names(Role::Gateway) {
            let Ok((_, http)) = self.doors(gateway) else { continue };
            if let Some(list) = members_at(http).await {
                return Some(list);
            }
        }
        None
    }

    /// How many of the plan's nodes are alive by a list.
    pub(crate) fn alive(&self, list: &MembersResult) -> usize {
        alive(list, &self.names(Role::Node).collect::<Vec<_>>())
    }

    /// Whether the first gateway sees every node alive before this time is over.
    ///
    /// # Errors
    /// A member ended.
    pub(crate) async fn forms_within(&mut self, within: Duration) -> Result<bool, Failure> {
        let (until, nodes) = (Instant::now() + within, self.names(Role::Node).count());
        while Instant::now() < until {
            if self.members_list().await.is_some_and(|list| self.alive(&list) == nodes) {
                return Ok(true);
            }
            self.check()?;
            sleep(LOOK_EVERY).await;
        }
        Ok(false)
    }

    /// Waits until every node serves every model, and every gateway is ready.
    ///
    /// # Errors
    /// A model does not load, a member ended, or time ran out.
    pub(crate) async fn wait_for_models(&mut self) -> Result<(), Failure> {
        let (models, nodes) = (self.home.plan().models.len(), self.names(Role::Node).count());
        let until = Instant::now() + MODELS_WITHIN;
        while Instant::now() < until {
            if let Some(list) = self.members_list().await {
                if let Some(reason) = unavailable(&list) {
                    return Err(Failure::new(Exit::Failure, "a sample model does not load", reason, ""));
                }
                if serving(&list, models) == nodes && self.are_ready().await {
                    return Ok(());
                }
            }
            self.check()?;
            sleep(LOOK_EVERY).await;
        }
        Err(self.not_formed(&format!("not every node serves every model after {MODELS_WITHIN:?}")).await)
    }

    async fn are_ready(&self) -> bool {
        for gateway in self.names(Role::Gateway) {
            if !self.is_ready(gateway).await {
                return false;
            }
        }
        true
    }

    /// Whether a gateway says that it takes work.
    pub(crate) async fn is_ready(&self, gateway: &str) -> bool {
        let Ok((_, http)) = self.doors(gateway) else { return false };
        let mut caller = HttpCaller::new(http);
        let asked = timeout(ASK_WITHIN, caller.get("/readyz")).await;
        asked.is_ok_and(|answer| answer.is_ok_and(|(status, _)| status.is_success()))
    }

    /// That all members run.
    fn check(&mut self) -> Result<(), Failure> {
        self.members.iter_mut().try_for_each(|(_, process)| process.check())
    }

    /// A failure that tells how the first gateway sees the members.
    pub(crate) async fn not_formed(&self, what: &str) -> Failure {
        let rows = self.members_list().await.map(|list| list.members).unwrap_or_default();
        let seen: Vec<_> = rows.iter().map(|row| format!("{} is {}", row.name, row.state)).collect();
        let why = match seen.is_empty() {
            true => "the gateway sees nobody".to_owned(),
            false => format!("as the gateway sees it, {}", seen.join(", ")),
        };
        let remedy = "see that a firewall lets programs on 127.0.0.1 reach each other by UDP";
        Failure::new(Exit::Failure, what, why, remedy)
    }

    /// Members that ended since this was asked last, with how.
    pub(crate) fn newly_ended(&mut self, known: &mut Vec<&'static str>) -> Vec<String> {
        let mut said = Vec::new();
        for (Start { name, .. }, process) in &mut self.members {
            if let Some(status) = process.ended().filter(|_| !known.contains(name)) {
                known.push(name);
                said.push(format!("{name} has ended ({status})"));
            }
        }
        said
    }

    /// Ends all members: the gateways first, so that what they hold still finds nodes. Another signal, or too long a
    /// time, kills them.
    pub(crate) async fn end(mut self, stop: &mut Stop) {
        for role in [Role::Gateway, Role::Node] {
            let names: Vec<_> = self.names(role).collect();
            let is_over = tokio::select! {
                () = self.stop(&names) => false,
                () = stop.asked() => true,
            };
            if is_over {
                break;
            }
        }
        for (_, process) in &mut self.members {
            process.kill().await;
        }
    }
}

/// A free port of loopback.
fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// The members as the gateway with this HTTP address sees them, if it says so.
pub(crate) async fn members_at(http: SocketAddr) -> Option<MembersResult> {
    timeout(ASK_WITHIN, HttpCaller::new(http).rpc("cluster.members")).await.ok()?.ok()
}

/// How many of these nodes are alive.
fn alive(list: &MembersResult, nodes: &[&str]) -> usize {
    let is_ours = |name: &str| nodes.contains(&name);
    list.members.iter().filter(|row| row.state == "alive" && is_ours(&row.name)).count()
}

/// How many living nodes serve so many models.
pub(crate) fn serving(list: &MembersResult, count: usize) -> usize {
    serving_of(list, count).len()
}

/// The living nodes that serve so many models.
pub(crate) fn serving_of(list: &MembersResult, count: usize) -> Vec<&str> {
    let serves_all = |row: &&lineside_wire::MemberRow| {
        let models = row.member.iter().flat_map(|member| &member.models);
        row.state == "alive" && models.filter(|model| model.state == ModelState::Ready).count() == count
    };
    list.members.iter().filter(serves_all).map(|row| row.name.as_str()).collect()
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
pub(crate) mod tests;
