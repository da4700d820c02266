//! A factory floor: one cluster's authority, its models, and the members that a story starts.

mod again;
mod founding;
mod network;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lineside_certs::{AUTHORITY_DIRECTORY, Authority, IDENTITY_DIRECTORY, Identity, Subject};
use lineside_client::Client;
use lineside_faults::relay::Relay;
use lineside_wire::{ClusterId, Empty, MemberRow, MembersResult, ModelState, NodeId, Role, method};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{
    Ended, Http, Load, Member, Outsider, PATIENCE, Plan, Tally, eventually, lineside,
    member::{Surroundings, command, without_settings},
    turn::{self, Turn},
};

/// Longest run of a command that is to end by itself.
const COMMAND_WITHIN: Duration = Duration::from_secs(40);

/// A cluster and all that it needs, in a directory of its own. Members are killed when it is dropped.
pub struct Floor {
    // The order of the fields is the order of their end: members before their directory, the turn last.
    members: BTreeMap<String, Member>,
    names: BTreeMap<NodeId, String>,
    relays: BTreeMap<String, Relay>,
    observer: Outsider,
    authority: Authority,
    models: PathBuf,
    home: TempDir,
    issued: u32,
    _turn: Turn,
}

impl Floor {
    /// A cluster without members, whose nodes will have these models: of `models/repository` or `models/test`.
    pub async fn empty(models: &[&str]) -> Self {
        Self::make(models, turn::take().await)
    }

    /// The same, while no other cluster runs: for stories whose numbers depend on the cores.
    pub async fn alone(models: &[&str]) -> Self {
        Self::make(models, turn::take_all().await)
    }

    /// A formed cluster of these nodes, which serve `add`, and a gateway called `door`.
    pub async fn with_nodes<const N: usize>(names: [&str; N]) -> Self {
        let mut floor = Self::empty(&["add"]).await;
        let nodes = names.into_iter().map(Plan::node);
        floor.start_all(nodes.chain([Plan::gateway("door")])).await;
        floor
    }

    fn make(models: &[&str], turn: Turn) -> Self {
        let home = tempfile::Builder::new().prefix("lineside-story-").tempdir().expect("a directory");
        let authority = Authority::create(&home.path().join(AUTHORITY_DIRECTORY), "floor", SystemTime::now());
        let authority = authority.expect("a fresh directory takes an authority");
        let repository = home.path().join("models");
        fs::create_dir(&repository).expect("writable");
        models.iter().for_each(|name| copy_model(name, &repository.join(name)));
        let observer = identity_of(&authority, Role::Node, "observer", home.path());
        Self {
            members: BTreeMap::new(),
            names: BTreeMap::new(),
            relays: BTreeMap::new(),
            observer: Outsider::new(observer),
            authority,
            models: repository,
            home,
            issued: 0,
            _turn: turn,
        }
    }

    /// Starts a member and waits until it is up, not until the others know it.
    pub async fn start(&mut self, plan: Plan) {
        self.begin(plan).await;
    }

    /// Starts members one after another and waits until all know each other.
    pub async fn start_all(&mut self, plans: impl IntoIterator<Item = Plan>) {
        for plan in plans {
            self.begin(plan).await;
        }
        self.formed().await;
    }

    async fn begin(&mut self, plan: Plan) {
        let (name, seeds) = (plan.name.clone(), self.seeds());
        let plan = self.relayed(plan).await;
        self.launch(plan, &seeds);
        self.is_up(&name).await;
    }

    /// Starts a member and does not wait.
    fn launch(&mut self, plan: Plan, seeds: &[SocketAddr]) {
        let plan = self.with_models(plan);
        let data = self.data(&plan);
        let log = self.home.path().join(format!("{}.log", plan.name));
        let around = Surroundings { data: &data, models: &self.models, seeds };
        let name = plan.name.clone();
        // Ours before it is up, so that its log is shown when it never is.
        self.members.insert(name, Member::start(plan, &log, &around));
    }

    async fn is_up(&mut self, name: &str) {
        let member = self.members.get_mut(name).expect("a member of that name");
        member.up().await;
        if let Some(relay) = self.relays.get(name) {
            relay.leads_to(member.address());
        }
        self.names.insert(member.node(), name.to_owned());
    }

    /// Puts a plan's own models into a repository of its own.
    fn with_models(&self, plan: Plan) -> Plan {
        if plan.models.is_empty() {
            return plan;
        }
        let repository = self.home.path().join(format!("{}-models", plan.name));
        for (model, name) in &plan.models {
            copy_model(model, &repository.join(name));
        }
        plan.set("node.models", repository.display())
    }

    /// Runs a member that cannot start, until it ends by itself.
    pub async fn fails(&self, plan: Plan) -> Ended {
        let data = self.data(&plan);
        let seeds = self.seeds();
        run(command(&plan, &Surroundings { data: &data, models: &self.models, seeds: &seeds })).await
    }

    /// The same, where no file can grow: as on a full disk.
    pub async fn fails_on_a_full_disk(&self, plan: Plan) -> Ended {
        let data = self.data(&plan);
        let member =
            command(&plan, &Surroundings { data: &data, models: &self.models, seeds: &self.seeds() });
        let mut shell = std::process::Command::new("sh");
        // The limit comes with a signal, which is to be the error that it stands for.
        shell.args(["-c", r#"trap '' XFSZ; ulimit -f 0; exec "$@""#, "sh"]);
        shell.arg(member.get_program()).args(member.get_args());
        for (name, value) in member.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        run(shell).await
    }

    /// Runs another command of the binary in a member's data directory.
    pub async fn lineside(&self, name: &str, arguments: &[&str]) -> Ended {
        self.lineside_in(self.member(name).data(), arguments).await
    }

    /// Runs another command of the binary in a data directory.
    pub async fn lineside_in(&self, data: &Path, arguments: &[&str]) -> Ended {
        let mut command = std::process::Command::new(lineside());
        without_settings(&mut command);
        command.args(arguments).arg("--data-dir").arg(data);
        run(command).await
    }

    /// Where a planned member lives; made with an identity, unless the plan names a directory.
    fn data(&self, plan: &Plan) -> PathBuf {
        let made = self.home.path().join(&plan.name);
        let data = plan.data.clone().unwrap_or_else(|| made.clone());
        if data == made && !plan.joins && !data.join(IDENTITY_DIRECTORY).exists() {
            let issued = self.authority.issue(&Subject::new(plan.role, &plan.name), SystemTime::now());
            let issued = issued.expect("a name can be issued for");
            Identity::store(&data.join(IDENTITY_DIRECTORY), &issued).expect("a fresh directory");
        }
        data
    }

    /// The addresses of the first members: one that answers is enough.
    fn seeds(&self) -> Vec<SocketAddr> {
        self.members.values().filter_map(Member::seed).take(2).collect()
    }

    /// A directory of the floor for a story's own use; not made.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The models that nodes load from.
    #[must_use]
    pub fn models(&self) -> &Path {
        &self.models
    }

    /// The cluster.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.authority.cluster()
    }

    /// Signs for the cluster.
    #[must_use]
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A fresh identity of the cluster.
    pub fn identity(&mut self, role: Role) -> Arc<Identity> {
        self.issued += 1;
        identity_of(&self.authority, role, &format!("{role}-{}", self.issued), self.home.path())
    }

    /// A member by name.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn member(&self, name: &str) -> &Member {
        self.members.get(name).expect("a member of that name")
    }

    /// The same, to do something to it.
    ///
    /// # Panics
    /// There is none.
    pub fn member_mut(&mut self, name: &str) -> &mut Member {
        self.members.get_mut(name).expect("a member of that name")
    }

    /// Whose id this is.
    #[must_use]
    pub fn name_of(&self, node: NodeId) -> &str {
        self.names.get(&node).map_or("nobody", String::as_str)
    }

    /// Checks that nodes of this floor gave the answers, and nobody else.
    ///
    /// # Panics
    /// Somebody else did.
    pub fn assert_ours(&self, tally: &Tally) {
        let strangers: Vec<_> = tally.by_node.keys().filter(|node| !self.names.contains_key(node)).collect();
        assert!(strangers.is_empty(), "answers of nobody's: {strangers:?}");
    }

    /// HTTP to a member.
    #[must_use]
    pub fn http(&self, name: &str) -> Http {
        Http::new(self.member(name).http_address())
    }

    /// A client program that was told of these members.
    pub async fn client(&mut self, at: &[&str]) -> Client {
        let identity = self.identity(Role::Client);
        let addresses = at.iter().map(|name| self.member(name).address());
        Client::connect(identity, addresses).await.expect("a member takes the client")
    }

    /// Callers of `add` at the door: so many over HTTP with binary tensors, and so many over QUIC.
    pub async fn load(&mut self, http: usize, quic: usize) -> Load {
        let client = self.client(&["door"]).await;
        Load::of_adds(self.member("door").http_address(), http, &client, quic)
    }

    /// The member list as one member sees it.
    ///
    /// # Errors
    /// It did not answer.
    pub async fn seen_by(&self, name: &str) -> Result<MembersResult, String> {
        let member = self.member(name);
        self.observer.ask(member.address(), method::CLUSTER_MEMBERS, &Empty {}).await
    }

    /// What one member says of another, once `wanted` holds of it.
    pub async fn sees(
        &self,
        by: &str,
        whom: &str,
        what: &str,
        wanted: impl Fn(&MemberRow) -> bool,
    ) -> MemberRow {
        let node = self.member(whom).node();
        eventually(&format!("{by} sees that {whom} {what}"), PATIENCE, async || {
            let rows = self.seen_by(by).await?.members;
            let row = rows.into_iter().find(|row| row.node == node).ok_or("it is not listed")?;
            if wanted(&row) { Ok(row) } else { Err(format!("{row:?}")) }
        })
        .await
    }

    /// Waits until all members that take part know each other as alive, with models loaded, and the doors are open.
    pub async fn formed(&mut self) {
        let running: Vec<_> = self
            .members
            .iter_mut()
            .filter_map(|(name, member)| member.takes_part().then(|| name.clone()))
            .collect();
        eventually("the cluster is formed", PATIENCE, async || {
            for name in &running {
                self.knows(name, &running).await.map_err(|reason| format!("{name}: {reason}"))?;
            }
            Ok(())
        })
        .await;
    }

    async fn knows(&self, name: &str, running: &[String]) -> Result<(), String> {
        let rows = self.seen_by(name).await?.members;
        for other in running {
            let member = self.member(other);
            let row =
                rows.iter().find(|row| row.node == member.node()).ok_or(format!("{other} is not listed"))?;
            let state = row
                .member
                .as_ref()
                .filter(|state| row.state == "alive" && state.address == member.announced());
            let state = state.ok_or_else(|| format!("{other} is {}", row.state))?;
            let loaded = |model: &lineside_wire::ModelInfo| model.state != ModelState::Loading;
            let is_loaded =
                state.models.len() == self.models_expected(member) && state.models.iter().all(loaded);
            if !is_loaded {
                return Err(format!("{other} has loaded {:?}", state.models));
            }
        }
        Ok(())
    }

    fn models_expected(&self, member: &Member) -> usize {
        match member.plan().role {
            Role::Node if !member.plan().models.is_empty() => member.plan().models.len(),
            Role::Node if member.plan().setting("node.models").is_none() => {
                fs::read_dir(&self.models).map_or(0, Iterator::count)
            }
            Role::Node | Role::Gateway | Role::Client | Role::Admin => 0,
        }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for (name, member) in &self.members {
            #[expect(clippy::print_stderr, reason = "a story that failed shows what its members said")]
            {
                eprintln!("── {name} ──\n{}", member.log());
            }
        }
    }
}

fn identity_of(authority: &Authority, role: Role, name: &str, home: &Path) -> Arc<Identity> {
    let directory = home.join(format!("{name}-identity"));
    let issued =
        authority.issue(&Subject::new(role, name), SystemTime::now()).expect("a name can be issued for");
    Identity::store(&directory, &issued).expect("a fresh directory");
    Arc::new(Identity::load(&directory).expect("it was just stored"))
}

/// Copies a sample or test model with its settings: a story may damage or remove its own.
fn copy_model(name: &str, to: &Path) {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let places = ["repository", "test"].map(|place| models.join(place).join(name));
    let from =
        places.iter().find(|place| place.join("1/model.onnx").is_file()).expect("a model of that name");
    fs::create_dir_all(to.join("1")).expect("writable");
    fs::copy(from.join("1/model.onnx"), to.join("1/model.onnx")).expect("writable");
    for file in ["model.toml", "tokenizer.json"].iter().filter(|file| from.join(file).is_file()) {
        fs::copy(from.join(file), to.join(file)).expect("writable");
    }
}

async fn run(command: std::process::Command) -> Ended {
    let mut command = tokio::process::Command::from(command);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(COMMAND_WITHIN, output).await.expect("the command ends by itself");
    let output = output.expect("the binary can be run");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
