//! The settings of a member: file < environment < flags.
//!
//! Every setting is one row of [`keys::KEYS`], which knows its name, what is allowed and what it means. The sample
//! file, `config show`, the messages about mistakes and the test of the documentation all come from that table.

mod error;
mod keys;
mod load;
mod reload;
mod setting;
mod show;
#[cfg(test)]
mod tests;
mod units;

use std::{
    net::SocketAddr,
    num::{NonZeroU8, NonZeroU32},
    path::{Path, PathBuf},
    time::Duration,
};

use lineside_certs::Lifetimes;
use lineside_client::Policy;
use lineside_discovery::Pace;
use lineside_gateway::{KeysMode, ModelControl};

pub(crate) use error::{InvalidConfig, Mistake};
pub(crate) use keys::is_level;
pub(crate) use load::{Again, Flag, Loaded, load_text};
#[cfg(test)]
pub(crate) use load::{Sources, load};
pub(crate) use reload::{ChangedKeys, changed_keys};
pub(crate) use show::{Style, sample, show_json, show_text};
pub(crate) use units::{Size, read_time};

/// The UDP port that members listen on, and the one an address without a port means.
pub(crate) const DEFAULT_PORT: u16 = 7443;

/// Where a member's addresses are written while it runs, below its data directory.
pub(crate) const ADDRESS_FILE: &str = "run/address";

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Config {
    /// `[member]`: who this process is to the others.
    pub(crate) member: Member,
    /// `[node]`: how it runs models.
    pub(crate) node: Node,
    /// `[gateway]`: how it serves HTTP and forwards calls.
    pub(crate) gateway: Gateway,
    /// `[certs]`: how it issues certificates, where the authority's key is.
    pub(crate) certs: Certs,
    /// `[log]`: what it says of itself.
    pub(crate) log: Log,
}

/// Who this process is to the others.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    /// Its name for people; `None` is the host's name.
    pub(crate) name: Option<String>,
    /// Identity, remembered peers, models; `None` is the user's or the system's usual place.
    pub(crate) data_dir: Option<PathBuf>,
    /// Where it listens for members (UDP).
    pub(crate) listen: SocketAddr,
    /// Where the others reach it; `None` finds out.
    pub(crate) advertise: Option<SocketAddr>,
    /// Members to ask first; one that answers is enough.
    pub(crate) seeds: Vec<SocketAddr>,
    /// Whether to look for members by mDNS.
    pub(crate) mdns: bool,
    /// How fast a silent member is given up.
    pub(crate) preset: Preset,
    /// Between two probes of one member; `None` is the preset's.
    pub(crate) probe_interval: Option<Duration>,
    /// How long an answer to a probe may take; `None` is the preset's.
    pub(crate) probe_timeout: Option<Duration>,
    /// Intervals in which a suspect may object; `None` is the preset's.
    pub(crate) probe_retries: Option<NonZeroU8>,
    /// Longest time that a member which ends finishes what runs.
    pub(crate) drain_within: Duration,
}

/// How fast a silent member is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preset {
    /// Five to six seconds; bears busy machines and poor wireless links.
    Lan,
    /// Three to four seconds; for wired networks and tests.
    Fast,
}

impl Member {
    /// How eagerly members are watched: by the preset, but for what is set by itself.
    pub(crate) fn pace(&self) -> Pace {
        let preset = match self.preset {
            Preset::Lan => Pace::LAN,
            Preset::Fast => Pace::FAST,
        };
        Pace {
            interval: self.probe_interval.unwrap_or(preset.interval),
            timeout: self.probe_timeout.unwrap_or(preset.timeout),
            retries: self.probe_retries.unwrap_or(preset.retries),
        }
    }
}

/// How models are run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// The model repository; `None` is `models` in the data directory.
    pub(crate) models: Option<PathBuf>,
    /// Sessions per model, each on its own thread; `None` is one per core.
    pub(crate) sessions: Option<NonZeroU32>,
    /// Calls that may wait.
    pub(crate) queue_max: NonZeroU32,
    /// Its share of the work, in percent of what it would get.
    pub(crate) weight: NonZeroU32,
    /// Whether the calls that it takes at once follow from what it measures.
    pub(crate) adaptive: bool,
    /// The ONNX Runtime library; `None` searches for it.
    pub(crate) onnxruntime: Option<PathBuf>,
    /// How the model repository is looked after.
    pub(crate) control: Control,
    /// How long nothing may change before a change is looked at.
    pub(crate) settle: Duration,
    /// How often a polled repository is looked at.
    pub(crate) poll_interval: Duration,
    /// What is loaded at the start under explicit control; `None` is everything.
    pub(crate) load: Option<Vec<String>>,
    /// Whether a request loads a model that is not loaded.
    pub(crate) on_demand: bool,
    /// Memory for models that are loaded on demand; 0 does not limit.
    pub(crate) memory_max: Size,
    /// Whether a model is tried in a process of its own before it is loaded.
    pub(crate) trial: bool,
    /// Longest time of a trial.
    pub(crate) trial_time_max: Duration,
    /// Most memory of a trial; `None` goes by the machine's.
    pub(crate) trial_memory_max: Option<Size>,
    /// Where findings and optimised models are kept; `None` is below the data directory.
    pub(crate) model_cache: Option<MaybeFile>,
}

/// How the model repository is looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// By the system's notices of changes.
    Watch,
    /// By looking again and again.
    Poll,
    /// Only by commands.
    Explicit,
}

/// How HTTP is served and calls are forwarded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Gateway {
    /// Where HTTP is served (TCP).
    pub(crate) http: SocketAddr,
    /// A further port for gRPC alone.
    pub(crate) grpc: MaybeAddress,
    /// Where the certificate for HTTPS comes from.
    pub(crate) tls: Tls,
    /// The certificate for HTTPS, with those that lead to its authority behind it.
    pub(crate) tls_certificate: MaybeFile,
    /// Its key.
    pub(crate) tls_key: MaybeFile,
    /// Whether plain HTTP is refused.
    pub(crate) tls_only: bool,
    /// What the cluster's certificate for HTTPS is good for; `None` finds out.
    pub(crate) tls_names: Option<Vec<String>>,
    /// Proxies whose word about the client is taken: addresses and networks.
    pub(crate) trusted_proxies: Vec<String>,
    /// Hosts whose web pages may ask for work, beside the door's own.
    pub(crate) allowed_origins: Vec<String>,
    /// Whether answers are compressed for those who offer to take them so.
    pub(crate) compression: bool,
    /// Whether clients need a key.
    pub(crate) keys: KeysMode,
    /// Who may change models over HTTP.
    pub(crate) model_control: ModelControl,
    /// Threads, each with its own listener and connections; `None` is one per core.
    pub(crate) shards: Option<NonZeroU32>,
    /// Largest request body.
    pub(crate) body_bytes_max: Size,
    /// Time for a call that does not say how long it may take.
    pub(crate) deadline: Duration,
    /// Longest time that a call may ask for.
    pub(crate) deadline_max: Duration,
    /// Requests at one time.
    pub(crate) in_flight_max: NonZeroU32,
    /// Connections at one time.
    pub(crate) connections_max: NonZeroU32,
    /// Connections of one address at one time.
    pub(crate) connections_per_address_max: NonZeroU32,
    /// How long a connection is kept between two requests.
    pub(crate) keep_alive: Duration,
    /// Requests per second and client, on average; 0 does not limit.
    pub(crate) rate_per_second: u32,
    /// Requests that a client may send at once before the rate counts.
    pub(crate) burst: NonZeroU32,
    /// Bytes of request bodies per second and client; 0 does not limit.
    pub(crate) bytes_per_second: Size,
    /// Inferences per second and model; 0 does not limit.
    pub(crate) model_rate_per_second: u32,
    /// Whether answers carry `X-RateLimit-…`, too.
    pub(crate) x_ratelimit: bool,
    /// Nodes tried for one call, the first one included.
    pub(crate) attempts_max: NonZeroU8,
    /// How the node of a call is chosen.
    pub(crate) balancing: Policy,
    /// How long a node that has calls may send no packet before they are tried elsewhere; 0 waits for QUIC.
    pub(crate) stall_after: Duration,
    /// Models whose slowest calls are tried on a second node, too.
    pub(crate) hedge: Vec<String>,
    /// Failed calls in a row that bar a node.
    pub(crate) eject_failures: NonZeroU8,
    /// Share of good answers below which a node is barred, in percent; 0 never.
    pub(crate) eject_success_percent: u32,
    /// Times the others' latency at which a node is barred; 0 never.
    pub(crate) eject_latency_times: u32,
    /// The first bar.
    pub(crate) eject_time: Duration,
    /// The longest bar.
    pub(crate) eject_time_max: Duration,
    /// How long a node that is new or back gets less than its share.
    pub(crate) slow_start: Duration,
}

/// How certificates are issued, on the machine with the authority's key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Certs {
    /// How long those of nodes and gateways live.
    pub(crate) member_lifetime: Duration,
    /// How long those of clients live.
    pub(crate) client_lifetime: Duration,
    /// The file with the passphrase of the authority's key.
    pub(crate) passphrase_file: MaybeFile,
}

/// A file, or none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MaybeFile(pub(crate) Option<PathBuf>);

/// An address, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MaybeAddress(pub(crate) Option<SocketAddr>);

/// Where the certificate for HTTPS comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    /// Nowhere: there is no HTTPS.
    Off,
    /// From the cluster's authority.
    Cluster,
    /// From two files.
    Files,
}

/// What the process says of itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Log {
    /// How a line looks.
    pub(crate) format: LogFormat,
    /// Which lines are written: a level, or directives such as `info,lineside_mesh=debug`.
    pub(crate) level: String,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

impl Default for Member {
    fn default() -> Self {
        Self {
            name: None,
            data_dir: None,
            listen: SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT)),
            advertise: None,
            seeds: Vec::new(),
            mdns: true,
            preset: Preset::Lan,
            probe_interval: None,
            probe_timeout: None,
            probe_retries: None,
            drain_within: Duration::from_secs(30),
        }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self {
            models: None,
            sessions: None,
            queue_max: NonZeroU32::new(64).expect("64 is not 0"),
            weight: NonZeroU32::new(100).expect("100 is not 0"),
            adaptive: true,
            onnxruntime: None,
            control: Control::Watch,
            settle: Duration::from_secs(1),
            poll_interval: Duration::from_secs(10),
            load: None,
            on_demand: false,
            memory_max: Size(0),
            trial: true,
            trial_time_max: Duration::from_secs(120),
            trial_memory_max: None,
            model_cache: None,
        }
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            http: SocketAddr::from(([0, 0, 0, 0], 8080)),
            grpc: MaybeAddress(None),
            tls: Tls::Off,
            tls_certificate: MaybeFile(None),
            tls_key: MaybeFile(None),
            tls_only: false,
            tls_names: None,
            trusted_proxies: Vec::new(),
            allowed_origins: Vec::new(),
            compression: true,
            keys: KeysMode::Optional,
            model_control: ModelControl::Keys,
            shards: None,
            body_bytes_max: Size(64 << 20),
            deadline: Duration::from_secs(10),
            deadline_max: Duration::from_secs(60),
            in_flight_max: NonZeroU32::new(1024).expect("1024 is not 0"),
            connections_max: NonZeroU32::new(1024).expect("1024 is not 0"),
            connections_per_address_max: NonZeroU32::new(256).expect("256 is not 0"),
            keep_alive: Duration::from_secs(60),
            rate_per_second: 0,
            burst: NonZeroU32::new(100).expect("100 is not 0"),
            bytes_per_second: Size(0),
            model_rate_per_second: 0,
            x_ratelimit: false,
            attempts_max: NonZeroU8::new(3).expect("3 is not 0"),
            balancing: Policy::LeastLoad,
            stall_after: Duration::from_millis(250),
            hedge: Vec::new(),
            eject_failures: NonZeroU8::new(3).expect("3 is not 0"),
            eject_success_percent: 80,
            eject_latency_times: 3,
            eject_time: Duration::from_secs(2),
            eject_time_max: Duration::from_secs(60),
            slow_start: Duration::from_secs(10),
        }
    }
}

impl Default for Certs {
    fn default() -> Self {
        let Lifetimes { member, client, .. } = Lifetimes::default();
        Self { member_lifetime: member, client_lifetime: client, passphrase_file: MaybeFile(None) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".to_owned() }
    }
}

impl Config {
    /// The data directory: as set, or the usual place.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.member.data_dir.clone().unwrap_or_else(usual_data_dir)
    }

    /// What a command that is told to a person needs, to find this data directory; nothing for the usual one.
    pub(crate) fn data_dir_flag(&self) -> String {
        let directory = self.data_dir();
        if directory == usual_data_dir() {
            return String::new();
        }
        let text = directory.display().to_string();
        match text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+@".contains(c)) {
            true => format!(" --data-dir {text}"),
            false => format!(" --data-dir '{}'", text.replace('\'', "'\\''")),
        }
    }

    /// The model repository: as set, or `models` in the data directory.
    pub(crate) fn models_dir(&self) -> PathBuf {
        self.node.models.clone().unwrap_or_else(|| self.data_dir().join("models"))
    }

    /// Where findings about models and optimised models are kept, if anywhere.
    pub(crate) fn model_cache(&self) -> Option<PathBuf> {
        let usual = || MaybeFile(Some(self.data_dir().join("cache/models")));
        self.node.model_cache.clone().unwrap_or_else(usual).0
    }

    /// How long certificates live that this machine issues. An admin's is for a day, whatever is set.
    pub(crate) fn lifetimes(&self) -> Lifetimes {
        let Certs { member_lifetime, client_lifetime, .. } = self.certs;
        Lifetimes { member: member_lifetime, client: client_lifetime, ..Lifetimes::default() }
    }

    /// The member's name: as set, or the host's.
    pub(crate) fn name(&self) -> String {
        self.member.name.clone().unwrap_or_else(host_name)
    }
}

/// Where data lives when nothing is set: the system's place for root, the user's for everyone else.
pub(crate) fn usual_data_dir() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/lineside");
    }
    variable("XDG_DATA_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/share")))
        .map_or_else(|| PathBuf::from(".lineside"), |base| base.join("lineside"))
}

/// The host's name, or `lineside` where the system does not tell.
pub(crate) fn host_name() -> String {
    let kernel = std::fs::read_to_string(Path::new("/proc/sys/kernel/hostname")).ok();
    let name = kernel.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    match name.trim() {
        "" => "lineside".to_owned(),
        name => name.chars().take(keys::NAME_CHARS_MAX).collect(),
    }
}
