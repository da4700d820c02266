//! Starts a member: everything that can be wrong is found before the first peer hears of it.

use std::{io::ErrorKind, net::SocketAddr, sync::Arc};

use lineside_certs::{
    Authority, Clock, Credentials, IDENTITY_DIRECTORY, Identity, TOKEN_LIFETIME, Token, TokenOrder,
};
use lineside_discovery::{Discovery, DiscoveryConfig, MdnsConfig, Opened};
use lineside_gateway::{GatewayError, Shared};
use lineside_mesh::{BindError, Mesh, MeshConfig};
use lineside_node::{ModelControl, Node, NodeConfig, runtime, trial::TrialConfig};
use lineside_wire::{LoadReport, MemberState, NodeId, Role, TrustStamp};
use tokio::{runtime::Handle, sync::watch, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Roles, RunOptions,
    address::{AddressFile, InUse, advertised, dialable, reachable_at},
    clocks,
    cordon::{self, Operators},
    desk::Desk,
    enter::{self, Entered, Way},
    home::{self, state_directory},
    keeper::{self, Keeper},
    known::{Around, Known},
    links::{DiscoveryCell, MemberPresence, MeshCarrier},
    moved::Follower,
    notify::Supervisor,
    opening::{Door, DoorParts, ShardParts, open_door},
    own::Own,
    pulse::Pulse,
    reload::Reloader,
    report::TrustCounts,
    rules::Rules,
    saving::Place,
    service::MemberService,
    skew::Skews,
    stop::Ended,
    tell,
    web::{self, WebKeeper},
};
use crate::{
    config::{self, Config, Control},
    exit::{Exit, Failure, OrFail as _},
};

/// A member that takes part.
pub(crate) struct Running {
    pub(crate) own: Arc<Own>,
    pub(crate) mesh: Mesh,
    pub(crate) discovery: Discovery,
    pub(crate) node: Option<Node>,
    pub(crate) service: Arc<MemberService>,
    /// The door's limits and counters; told first that it is leaving.
    pub(crate) shared: Option<Arc<Shared>>,
    /// Closes the HTTP door.
    pub(crate) closing: CancellationToken,
    /// The HTTP door, until it has closed.
    pub(crate) door: JoinSet<Result<(), GatewayError>>,
    /// What keeps roster and gossip up to date; none of it ends by itself.
    pub(crate) upkeep: JoinSet<&'static str>,
    /// Dials that discovery asked for.
    pub(crate) dials: TaskTracker,
    pub(crate) home: Arc<InUse>,
    pub(crate) end: Ending,
}

/// What the end of a member goes by.
pub(crate) struct Ending {
    /// They say how long what runs may take.
    pub(crate) settings: watch::Receiver<Arc<Config>>,
    /// Who wants to hear of it.
    pub(crate) supervisor: Arc<Supervisor>,
}

/// Starts a member. Must run on the network's runtime.
///
/// May wait for another member, to join. From the first socket on nothing is awaited, so no peer is served half-made.
/// `reloads` rings when the settings are to be read again.
pub(crate) async fn start(
    config: &Config,
    roles: Roles,
    options: &RunOptions,
    reloads: watch::Receiver<u64>,
) -> Result<Running, Failure> {
    let home = Arc::new(home::take(&config.data_dir())?);
    let entered = enter::enter(config, roles, options).await?;
    let (settings, _) = watch::channel(Arc::new(config.clone()));
    let supervisor = Arc::clone(&options.supervisor);
    let rules = Rules::new(&config.gateway);
    let reloader = Reloader { again: options.again.clone(), settings, door: None, rules, supervisor };
    let (operators, orders) = Operators::new(options.leave.clone());
    let mut running = serve(config, roles, home, entered, &reloader, operators)?;
    running.obey(orders, config);
    let door = running.shared.as_ref().map(|shared| (Arc::clone(shared), roles.node));
    running.upkeep.spawn(Reloader { door, ..reloader }.run(reloads));
    Ok(running)
}

/// Opens every socket, and takes part.
fn serve(
    config: &Config,
    roles: Roles,
    home: Arc<InUse>,
    entered: Entered,
    reloader: &Reloader,
    operators: Operators,
) -> Result<Running, Failure> {
    let Entered { identity, way, clock, authority, seeds } = entered;
    let opened = open_discovery(config, &identity, seeds)?;
    let token = first_token(way, authority.as_ref(), &clock);
    let skews = Arc::new(Skews::new(clock.behind().is_some()));
    let credentials = Credentials::new(Arc::clone(&identity), clock);
    let desk = open_desk(authority, &credentials)?;
    let state = first_state(config, roles, &identity, desk.is_some(), opened.epoch());
    let own = Own::new(identity.cluster(), state);
    let node = if roles.node { Some(start_node(config, &identity)?) } else { None };
    let at_node = node.as_ref().map(Node::service);
    let service = MemberService::new(Arc::clone(&own), at_node, credentials.clone(), desk.clone(), operators);
    let service = Arc::new(service);
    let (cell, presence) = presence(&own, &skews);
    let mesh = listen(config, &credentials, &presence, &service, desk.as_ref())?;
    let counts = TrustCounts::new(credentials.clone());
    let shard = ShardParts {
        credentials: credentials.clone(),
        presence,
        service: Arc::clone(&service),
        counts: Arc::clone(&counts),
        rules: Arc::clone(&reloader.rules),
    };
    let mut door = if roles.gateway { Some(open_door(config, roles, shard)?) } else { None };
    let address = announced_address(config, &mesh);
    let (http, grpc) = door.as_ref().map_or((None, None), Door::addresses);
    own.change(|state| (state.address, state.http) = (address, http.and_then(|http| advertised(None, http))));

    let (discovery, dials) = take_part(opened, &own, &mesh)?;
    drop(cell.set(discovery.clone()));
    let (view, around) = (Arc::clone(&discovery.view().borrow()), around(&skews, &credentials, &discovery));
    let known = Known::new(view, door.as_ref().map(|door| Arc::clone(&door.balancer)), around);
    drop(service.known.set(Arc::clone(&known)));
    let keeper = keeper::Parts {
        place: place(config),
        credentials,
        own: Arc::clone(&own),
        discovery: discovery.clone(),
        mesh: mesh.clone(),
        desk,
        counts: Arc::clone(&counts),
    };
    let mut upkeep = JoinSet::new();
    if let Some(door) = &mut door {
        keep_web(&mut upkeep, door, &keeper, Arc::clone(&known), reloader.settings.subscribe());
    }
    keep_up(&mut upkeep, &node, &known, skews, keeper);

    let closing = CancellationToken::new();
    let shared = door.as_ref().map(|door| Arc::clone(&door.shared));
    let behind_door = DoorParts { mesh: &mesh, known, service: &service, counts };
    let door = door.map_or_else(JoinSet::new, |door| behind_door.serve(door, &closing));
    let file = publish(config, &home, &identity, &mesh, (http, grpc))?;
    let (told, written) = ((&own, &mesh, &discovery), (&home, &file));
    upkeep.spawn(Follower::of(config.member.advertise, http, told, written).follow());
    tell::up(&tell::Start { identity: &identity, way, token }, &own.state(), &file, config, node.is_some());
    let supervisor = Arc::clone(&reloader.supervisor);
    let end = Ending { settings: reloader.settings.subscribe(), supervisor };
    Ok(Running { own, mesh, discovery, node, service, shared, closing, door, upkeep, dials, home, end })
}

/// Opens the mesh on the members' port, where joiners knock, too, if this member has the authority's key.
fn listen(
    config: &Config,
    credentials: &Credentials,
    presence: &Arc<MemberPresence>,
    service: &Arc<MemberService>,
    desk: Option<&Desk>,
) -> Result<Mesh, Failure> {
    let mesh_config = MeshConfig::listening(config.member.listen);
    let mesh = Mesh::bind(mesh_config, credentials.clone(), presence.clone(), service.clone())
        .map_err(|error| not_listening(&error))?;
    if let Some(desk) = desk {
        mesh.set_enrolment(Some(Arc::new(desk.clone())));
    }
    Ok(mesh)
}

/// What a member knows of those around it beside their own words: whose clock is off, and whose id the trust list that is
/// in force then has taken.
fn around(skews: &Arc<Skews>, credentials: &Credentials, discovery: &Discovery) -> Around {
    let (skews, credentials) = (Arc::clone(skews), credentials.clone());
    let revoked = Box::new(move |node: NodeId| credentials.identity().trust().has_revoked(node));
    Around { skews, revoked, discovery: Some(discovery.clone()) }
}

/// The token for the second machine of a cluster that was made just now. Without it a person makes one with a command.
fn first_token(way: Way, authority: Option<&Authority>, clock: &Clock) -> Option<Token> {
    let authority = authority.filter(|_| way == Way::Made)?;
    let order = TokenOrder { role: Role::Node, name: None, lifetime: TOKEN_LIFETIME };
    match authority.create_token(&order, clock.now()) {
        Ok(token) => Some(token),
        Err(error) => {
            tracing::warn!(%error, "no token could be made for a second machine: see `lineside token create`");
            None
        }
    }
}

fn open_desk(authority: Option<Authority>, credentials: &Credentials) -> Result<Option<Desk>, Failure> {
    let Some(authority) = authority else { return Ok(None) };
    let desk = Desk::open(authority, credentials.identity().node(), credentials.clock().clone());
    desk.map(Some).or_fail(
        Exit::Failure,
        "cannot start",
        "the system gives no more threads: raise its limits",
    )
}

/// Begins to gossip over the listening mesh.
fn take_part(opened: Opened, own: &Own, mesh: &Mesh) -> Result<(Discovery, TaskTracker), Failure> {
    let dials = TaskTracker::new();
    let carrier = MeshCarrier { mesh: mesh.clone(), net: Handle::current(), tasks: dials.clone() };
    let started = opened.start(MemberState::clone(&own.state()), Arc::new(carrier));
    let discovery = started.or_fail(Exit::Failure, "cannot take part in the cluster", "")?;
    Ok((discovery, dials))
}

/// Tells the commands on this machine where the member is.
fn publish(
    config: &Config,
    home: &InUse,
    identity: &Identity,
    mesh: &Mesh,
    (http, grpc): (Option<SocketAddr>, Option<SocketAddr>),
) -> Result<AddressFile, Failure> {
    let file = AddressFile {
        pid: std::process::id(),
        node: identity.node(),
        members: dialable(mesh.local_addr()),
        http: http.map(dialable),
        grpc: grpc.map(dialable),
        reachable: reachable_at(config.member.advertise, mesh.local_addr()),
    };
    home.publish(&file).or_fail(
        Exit::Failure,
        format!("cannot write to {}", config.data_dir().display()),
        "free space, or choose another --data-dir",
    )?;
    Ok(file)
}

/// Begins what keeps the roster true to discovery, discovery true to this process, and its certificates fresh.
fn keep_up(
    upkeep: &mut JoinSet<&'static str>,
    node: &Option<Node>,
    known: &Arc<Known>,
    skews: Arc<Skews>,
    keeper: keeper::Parts,
) {
    let (known, views) = (Arc::clone(known), keeper.discovery.view());
    upkeep.spawn(async move {
        known.follow(views).await;
        "discovery"
    });
    let (own, discovery, mesh) = (Arc::clone(&keeper.own), keeper.discovery.clone(), keeper.mesh.clone());
    upkeep.spawn(tell::own_changes(Arc::clone(&own), node.clone(), discovery.clone()));
    upkeep.spawn(clocks::look_again(skews, own, discovery, mesh));
    upkeep.spawn(Keeper::new(keeper).run());
}

/// Where certificates and the state are kept.
fn place(config: &Config) -> Arc<Place> {
    let (identity, state) = (config.data_dir().join(IDENTITY_DIRECTORY), state_directory(config));
    Arc::new(Place { identity, state })
}

/// What this member says of itself to whoever it meets, and the cell for its discovery, which begins later.
fn presence(own: &Arc<Own>, skews: &Arc<Skews>) -> (DiscoveryCell, Arc<MemberPresence>) {
    let (own, skews, cell) = (Arc::clone(own), Arc::clone(skews), DiscoveryCell::default());
    let presence = MemberPresence { own, discovery: Arc::clone(&cell), skews };
    (cell, Arc::new(presence))
}

/// Keeps what the door shows and whom it lets in up to date, with what the member's own certificates are kept by.
fn keep_web<F>(
    upkeep: &mut JoinSet<&'static str>,
    door: &mut Door<F>,
    keeper: &keeper::Parts,
    known: Arc<Known>,
    settings: watch::Receiver<Arc<Config>>,
) {
    let parts = web::Parts {
        credentials: keeper.credentials.clone(),
        shared: Arc::clone(&door.shared),
        own: Arc::clone(&keeper.own),
        known,
        mesh: keeper.mesh.clone(),
        desk: keeper.desk.clone(),
        settings,
    };
    upkeep.spawn(WebKeeper::new(parts, door.web.take()).run());
}

/// Why there is no socket for members, and which address would do.
fn not_listening(error: &BindError) -> Failure {
    let (why, remedy) = match error {
        BindError::Listen { address, source } if source.kind() == ErrorKind::AddrNotAvailable => (
            format!("{} is no address of this machine", address.ip()),
            "name one of its own with --listen, or 0.0.0.0",
        ),
        BindError::Listen { address, source } if source.kind() == ErrorKind::AddrInUse => (
            format!("{address} (UDP) is in use, probably by another member"),
            "stop that one, or choose another port with --listen; port 0 takes a free one",
        ),
        _ => (error.to_string(), "choose another address with --listen"),
    };
    Failure::new(Exit::Failure, "cannot listen for members", why, remedy)
}

impl Running {
    /// Begins to carry out operators' orders, and to give signs of life.
    fn obey(&mut self, orders: cordon::Orders, config: &Config) {
        let (own, discovery) = (Arc::clone(&self.own), self.discovery.clone());
        let (node, state) = (self.node.as_ref().map(Node::service), state_directory(config));
        self.upkeep.spawn(orders.carry_out(Arc::clone(&own), discovery.clone(), node, state));
        if let Some(known) = self.service.known.get() {
            let (supervisor, known) = (Arc::clone(&self.end.supervisor), Arc::clone(known));
            self.upkeep.spawn(Pulse { supervisor, own, discovery, known }.beat());
        }
    }

    /// Waits for the order to end, or for the end of something that should never end.
    pub(crate) async fn run_until(&mut self, order: impl Future<Output = &'static str>) -> Ended {
        tokio::select! {
            who = order => Ended::Ordered(who),
            Some(door) = self.door.join_next() => match door {
                Ok(Ok(())) => Ended::Broken("the HTTP door closed by itself".to_owned()),
                Ok(Err(error)) => Ended::Broken(error.to_string()),
                Err(error) => Ended::Broken(error.to_string()),
            },
            Some(part) = self.upkeep.join_next() => match part {
                Ok(part) => Ended::Broken(format!("{part} ended by a defect; see the log")),
                Err(error) => Ended::Broken(error.to_string()),
            },
        }
    }
}

fn open_discovery(config: &Config, identity: &Identity, more: Vec<SocketAddr>) -> Result<Opened, Failure> {
    let mdns = MdnsConfig { loopback: config.member.listen.ip().is_loopback() };
    let discovery = DiscoveryConfig {
        cluster: identity.cluster(),
        pace: config.member.pace(),
        seeds: config.member.seeds.iter().copied().chain(more).collect(),
        mdns: config.member.mdns.then_some(mdns),
        state_dir: state_directory(config),
    };
    let remedy = "free space, and look whether the files in it belong to this user";
    let state = state_directory(config);
    Discovery::open(discovery).or_fail(
        Exit::Failure,
        format!("cannot count this start in {}", state.display()),
        remedy,
    )
}

/// What is known before the first socket is open.
fn first_state(
    config: &Config,
    roles: Roles,
    identity: &Identity,
    authority: bool,
    epoch: u64,
) -> MemberState {
    let mut state = MemberState {
        node: identity.node(),
        name: config.member.name.clone().unwrap_or_else(|| identity.name().to_owned()),
        role: identity.role(),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        address: config.member.listen,
        http: None,
        door: roles.gateway,
        epoch,
        revision: 0,
        draining: false,
        cordoned: roles.node && cordon::is_cordoned(&state_directory(config)),
        weight: u16::try_from(config.node.weight.get()).unwrap_or(u16::MAX),
        load: LoadReport::default(),
        models: Vec::new(),
        certificate_expires: 0,
        certificate_generation: 0,
        trust: TrustStamp::default(),
        authority: false,
    };
    keeper::describe(&mut state, identity, authority);
    state
}

fn start_node(config: &Config, identity: &Identity) -> Result<Node, Failure> {
    let found = runtime::find(config.node.onnxruntime.as_deref())?;
    tracing::debug!(library = %found.path.display(), origin = %found.origin, "ONNX Runtime found");
    if config.node.models.is_none() {
        // The usual place is made, so that there is somewhere to put models; one that was named must be there.
        let models = config.models_dir();
        std::fs::create_dir_all(&models).or_fail(
            Exit::Failure,
            format!("cannot make {}", models.display()),
            "",
        )?;
    }
    let cores = || std::thread::available_parallelism().unwrap_or(std::num::NonZeroUsize::MIN);
    let count = |number: std::num::NonZeroU32| number.try_into().unwrap_or(std::num::NonZeroUsize::MAX);
    let settings = NodeConfig {
        models: config.models_dir(),
        sessions: config.node.sessions.map_or_else(cores, count),
        queue_max: count(config.node.queue_max),
        adaptive: config.node.adaptive,
        library: found.path,
        control: control(&config.node),
        on_demand: config.node.on_demand,
        memory_max: (config.node.memory_max.0 != 0).then_some(config.node.memory_max.0),
        trial: config.node.trial.then(|| trial(&config.node)).transpose()?,
        cache: config.model_cache(),
    };
    Node::start(settings, identity.node()).or_fail(Exit::Failure, "cannot run models", "")
}

fn control(node: &config::Node) -> ModelControl {
    match node.control {
        Control::Watch => ModelControl::Watch { settle: node.settle },
        Control::Poll => ModelControl::Poll { every: node.poll_interval },
        Control::Explicit => ModelControl::Explicit {
            // Whatever is no name was refused with the settings.
            load: node.load.as_ref().map(|names| names.iter().filter_map(|name| name.parse().ok()).collect()),
        },
    }
}

/// Models are tried by this program itself.
pub(crate) fn trial(node: &config::Node) -> Result<TrialConfig, Failure> {
    // What runs, also when an update has put another file in its place.
    let own = std::path::PathBuf::from("/proc/self/exe");
    let program = if own.exists() { Ok(own) } else { std::env::current_exe() };
    let program = program.or_fail(
        Exit::Failure,
        "cannot try models in a process of their own: this program's file is not found",
        "start it by its full path, or set node.trial to false",
    )?;
    Ok(TrialConfig {
        program,
        arguments: vec!["try-model".into()],
        time_max: node.trial_time_max,
        memory_max: node.trial_memory_max.map_or_else(trial_memory, |size| size.0),
    })
}

/// Three quarters of the machine's memory, so that a trial that takes all it can does not make the system end something
/// else. Where the system does not tell, as much as any model of 2 GiB needs.
fn trial_memory() -> u64 {
    const UNKNOWN: u64 = 8 << 30;
    const LEAST: u64 = 1 << 30;
    let told = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = told.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"));
    let total = total.and_then(|kibibytes| kibibytes.trim().parse::<u64>().ok());
    total.map_or(UNKNOWN, |kibibytes| (kibibytes.saturating_mul(1024) / 4 * 3).max(LEAST))
}

/// The address that the others are told; without a network this machine's own, which only it can reach.
fn announced_address(config: &Config, mesh: &Mesh) -> std::net::SocketAddr {
    let bound = mesh.local_addr();
    advertised(config.member.advertise, bound).unwrap_or_else(|| {
        tracing::warn!(
            "no network interface has an address: other machines cannot reach this member, and are told once one has"
        );
        dialable(bound)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_had_names_what_to_do() {
        let address = ([10, 9, 9, 9], 7443).into();
        let told =
            |kind: ErrorKind| not_listening(&BindError::Listen { address, source: kind.into() }).text();
        assert!(told(ErrorKind::AddrNotAvailable).contains("no address of this machine"));
        assert!(told(ErrorKind::AddrInUse).contains("another member"));
        assert!(told(ErrorKind::PermissionDenied).contains("cannot listen on 10.9.9.9:7443"));
    }
}
