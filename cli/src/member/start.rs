//! Starts a member: everything that can be wrong is found before the first peer hears of it.

use std::{
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use lineside_certs::{Identity, disk};
use lineside_client::{Balancer, Balancing, Budget, Pool};
use lineside_discovery::{Discovery, DiscoveryConfig, MdnsConfig, Opened, Pace};
use lineside_gateway::{DoorService, GatewayError, GatewayServer, Shared};
use lineside_mesh::{BindError, Mesh, MeshConfig};
use lineside_node::{Node, NodeConfig, runtime};
use lineside_wire::{LoadReport, MemberState, Role};
use tokio::{runtime::Handle, task::JoinSet, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Roles, RunOptions,
    address::{AddressFile, InUse, advertised, dialable},
    door::{self, DoorCluster},
    known::Known,
    links::{DiscoveryCell, MemberPresence, MeshCarrier},
    own::Own,
    service::MemberService,
    stop::Ended,
    tell,
};
use crate::{
    config::{Config, Preset},
    exit::{Exit, Failure, OrFail as _},
};

/// Below the data directory: what discovery keeps between two starts.
const STATE_DIRECTORY: &str = "state";

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
    pub(crate) home: InUse,
}

/// The HTTP door before it answers.
struct Door<F> {
    shared: Arc<Shared>,
    server: GatewayServer<F>,
    balancer: Arc<Balancer>,
    budget: Arc<Budget>,
}

/// Starts a member. Must run on the network's runtime; nothing is awaited, so no peer is served half-made.
pub(crate) fn start(config: &Config, roles: Roles, options: RunOptions) -> Result<Running, Failure> {
    let home = take(&config.data_dir())?;
    let (identity, made) = identity(config, roles, options)?;
    let opened = open_discovery(config, &identity)?;
    let own = Own::new(identity.cluster(), first_state(config, roles, &identity, opened.epoch()));
    let node = if roles.node { Some(start_node(config, &identity)?) } else { None };
    let service = Arc::new(MemberService::new(Arc::clone(&own), node.as_ref().map(Node::service)));
    let cell = DiscoveryCell::default();
    let presence = Arc::new(MemberPresence { own: Arc::clone(&own), discovery: Arc::clone(&cell) });
    let mesh_config = MeshConfig::listening(config.member.listen);
    let mesh = Mesh::bind(mesh_config, Arc::clone(&identity), presence.clone(), service.clone())
        .map_err(|error| not_listening(&error))?;
    let shard = ShardParts { identity: Arc::clone(&identity), presence, service: Arc::clone(&service) };
    let door = if roles.gateway { Some(open_door(config, roles, shard)?) } else { None };
    let address = announced_address(config, &mesh);
    let http = door.as_ref().map(|door| door.server.address());
    own.change(|state| (state.address, state.http) = (address, http.and_then(|http| advertised(None, http))));

    let dials = TaskTracker::new();
    let carrier = MeshCarrier { mesh: mesh.clone(), net: Handle::current(), tasks: dials.clone() };
    let discovery = opened.start(MemberState::clone(&own.state()), Arc::new(carrier)).or_fail(
        Exit::Failure,
        "cannot take part in the cluster",
        "",
    )?;
    drop(cell.set(discovery.clone()));
    let view = Arc::clone(&discovery.view().borrow());
    let known = Known::new(view, door.as_ref().map(|door| Arc::clone(&door.balancer)));
    drop(service.known.set(Arc::clone(&known)));

    let upkeep = keep_up(&own, &node, &discovery, &known);
    let closing = CancellationToken::new();
    let shared = door.as_ref().map(|door| Arc::clone(&door.shared));
    let door = door.map_or_else(JoinSet::new, |door| {
        let pool = Pool::new(mesh.clone(), door.balancer, door.budget);
        let pool = pool.with_attempts_max(config.gateway.attempts_max);
        drop(service.door.set(DoorService::new(Arc::new(DoorCluster { pool, known }), door.shared)));
        JoinSet::from_iter([door.server.serve(closing.clone())])
    });
    let file = AddressFile {
        pid: std::process::id(),
        node: identity.node(),
        members: dialable(mesh.local_addr()),
        http: http.map(dialable),
    };
    home.publish(&file).or_fail(
        Exit::Failure,
        format!("cannot write to {}", config.data_dir().display()),
        "free space, or choose another --data-dir",
    )?;
    tell::up(&identity, made, &own.state(), &file, config, node.is_some());
    Ok(Running { own, mesh, discovery, node, service, shared, closing, door, upkeep, dials, home })
}

/// Begins what keeps the roster true to discovery, and discovery true to this process.
fn keep_up(
    own: &Arc<Own>,
    node: &Option<Node>,
    discovery: &Discovery,
    known: &Arc<Known>,
) -> JoinSet<&'static str> {
    let mut upkeep = JoinSet::new();
    let (known, views) = (Arc::clone(known), discovery.view());
    upkeep.spawn(async move {
        known.follow(views).await;
        "discovery"
    });
    upkeep.spawn(tell::own_changes(Arc::clone(own), node.clone(), discovery.clone()));
    upkeep
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

fn take(data: &Path) -> Result<InUse, Failure> {
    let taken = InUse::take(data).map_err(|error| {
        // A full disk is no mistake in the settings: a supervisor should try again.
        let (exit, remedy) = match error.kind() {
            ErrorKind::StorageFull => (Exit::Failure, "free space, or choose another --data-dir"),
            _ => (Exit::Config, "name a directory that this user may write with --data-dir"),
        };
        Failure::new(exit, format!("cannot use the data directory {}", data.display()), error, remedy)
    })?;
    check_own(data)?;
    taken.ok_or_else(|| {
        Failure::new(
            Exit::Failure,
            format!("{} is in use", data.display()),
            "another member runs with this data directory, and two with one identity would fight",
            "stop that one, or give this one a directory of its own with --data-dir",
        )
    })
}

/// Whoever may write into the data directory can put another identity there.
fn check_own(data: &Path) -> Result<(), Failure> {
    let unsafe_to_use = format!("the data directory {} is not safe to use", data.display());
    let me = rustix::process::geteuid().as_raw();
    match std::fs::metadata(data).map(|metadata| metadata.uid()) {
        Ok(owner) if owner != me => Err(Failure::new(
            Exit::Config,
            unsafe_to_use,
            format!("it belongs to the user {owner}, and this process is the user {me}"),
            format!("start this as its owner, or take it over: chown -R {me} {}", data.display()),
        )),
        Ok(_) | Err(_) => disk::check_directory(data).or_fail(Exit::Config, unsafe_to_use, ""),
    }
}

/// The identity in the data directory; a new cluster's where there is none.
fn identity(config: &Config, roles: Roles, options: RunOptions) -> Result<(Arc<Identity>, bool), Failure> {
    let (data, now) = (config.data_dir(), SystemTime::now());
    let role = if roles.node { Role::Node } else { Role::Gateway };
    let unusable = format!("the identity in {} cannot be used", data.display());
    let (identity, made) = Identity::ensure(&data, &config.name(), role, !options.no_init, now)
        .and_then(|(identity, made)| identity.check_validity(now).map(|()| (identity, made)))
        .map_err(|error| {
            let error = anyhow::Error::from(error);
            let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
            // As above: to be tried again.
            match io.is_some_and(|io| io.kind() == ErrorKind::StorageFull) {
                true => {
                    Failure::new(Exit::Failure, &unusable, error, "free space, or choose another --data-dir")
                }
                false => Failure::new(Exit::Config, &unusable, error, ""),
            }
        })?;
    let fits = match identity.role() {
        Role::Node => true,
        Role::Gateway => !roles.node,
        Role::Client | Role::Admin => false,
    };
    if !fits {
        let why = format!("its certificate is for the role {}, and this needs {role}", identity.role());
        let remedy =
            format!("issue one with `lineside certs issue --role {role}` on the machine with the authority");
        return Err(Failure::new(Exit::Config, unusable, why, remedy));
    }
    Ok((Arc::new(identity), made))
}

fn open_discovery(config: &Config, identity: &Identity) -> Result<Opened, Failure> {
    let mdns = MdnsConfig { loopback: config.member.listen.ip().is_loopback() };
    let discovery = DiscoveryConfig {
        cluster: identity.cluster(),
        pace: match config.member.preset {
            Preset::Lan => Pace::Lan,
            Preset::Fast => Pace::Fast,
        },
        seeds: config.member.seeds.clone(),
        mdns: config.member.mdns.then_some(mdns),
        state_dir: config.data_dir().join(STATE_DIRECTORY),
    };
    let remedy = "free space, and look whether the files in it belong to this user";
    let state = config.data_dir().join(STATE_DIRECTORY);
    Discovery::open(discovery).or_fail(
        Exit::Failure,
        format!("cannot count this start in {}", state.display()),
        remedy,
    )
}

/// What is known before the first socket is open.
fn first_state(config: &Config, roles: Roles, identity: &Identity, epoch: u64) -> MemberState {
    let expires = identity.not_after().duration_since(UNIX_EPOCH);
    MemberState {
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
        load: LoadReport::default(),
        models: Vec::new(),
        certificate_expires: expires.map_or(0, |since| since.as_secs()),
    }
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
        library: found.path,
    };
    Node::start(settings, identity.node()).or_fail(Exit::Failure, "cannot run models", "")
}

/// The address that the others are told; without a network this machine's own, which only it can reach.
fn announced_address(config: &Config, mesh: &Mesh) -> std::net::SocketAddr {
    let bound = mesh.local_addr();
    advertised(config.member.advertise, bound).unwrap_or_else(|| {
        tracing::warn!(
            "no network interface has an address: other machines cannot reach this member; set member.advertise once \
             there is one"
        );
        dialable(bound)
    })
}

/// What a shard's own mesh is made of.
struct ShardParts {
    identity: Arc<Identity>,
    presence: Arc<MemberPresence>,
    service: Arc<MemberService>,
}

/// Opens the HTTP door's sockets. Each shard calls nodes over a mesh of its own, made on its own runtime.
#[expect(clippy::type_complexity, reason = "a closure cannot be named")]
fn open_door(
    config: &Config,
    roles: Roles,
    parts: ShardParts,
) -> Result<Door<impl Fn(usize) -> Result<Arc<DoorCluster>, String> + Send + Sync + 'static>, Failure> {
    let now = Instant::now().into_std();
    let balancer = Arc::new(Balancer::new(Balancing::default(), &mut rand::rng(), now));
    let budget = Arc::new(Budget::new(now));
    let (shared_balancer, shared_budget) = (Arc::clone(&balancer), Arc::clone(&budget));
    let attempts_max = config.gateway.attempts_max;
    let cluster = move |shard: usize| {
        let ShardParts { identity, presence, service } = &parts;
        let mesh =
            Mesh::bind(MeshConfig::dialling(), Arc::clone(identity), presence.clone(), service.clone())
                .map_err(|error| format!("shard {shard}: {error}"))?;
        let known = service.known.get().ok_or("discovery is not there yet")?;
        let pool = Pool::new(mesh, Arc::clone(&shared_balancer), Arc::clone(&shared_budget));
        let pool = pool.with_attempts_max(attempts_max);
        Ok(Arc::new(DoorCluster { pool, known: Arc::clone(known) }))
    };
    let shared = Shared::new(door::settings(&config.gateway, roles.node));
    let server = GatewayServer::bind_shared(Arc::clone(&shared), cluster).or_fail(
        Exit::Failure,
        "cannot serve HTTP",
        "choose another address with --http",
    )?;
    Ok(Door { shared, server, balancer, budget })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_that_others_may_write_is_refused_with_the_command_that_mends_it() {
        let home = tempfile::tempdir().expect("a directory");
        assert!(check_own(home.path()).is_ok());
        let everybody = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(home.path(), everybody).expect("its owner may");
        let refused = check_own(home.path()).expect_err("everybody may write");
        assert_eq!(refused.exit, Exit::Config);
        assert!(refused.text().contains("chmod 700"), "{}", refused.text());
    }

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
