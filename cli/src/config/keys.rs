//! The table of settings: one row per key.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use lineside_certs::WebName;
use lineside_gateway::Network;
use tracing_subscriber::EnvFilter;

use super::{
    Config, Size,
    setting::{Raw, Setting, read_list, read_member_address, read_or_auto},
};

/// Longest name of a member, in characters: it has to fit a gossip packet and a table.
pub(super) const NAME_CHARS_MAX: usize = 48;

/// Times that a call may take. Below, the network alone takes longer; above, a caller should ask for a job.
const DEADLINES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);

/// Lives of a certificate. Below, clocks that differ a little and a handshake that is tried again would count; above a
/// year, a key in wrong hands is worth too much for too long.
const LIFETIMES: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(8760 * 3600);

/// Sizes of a request body. The frame's payload length ends at 1 GiB.
const BODY_BYTES: RangeInclusive<u64> = 1 << 10..=1 << 30;

/// Bytes per second of one client. Below, no request of an ordinary model gets through in a second; above, the counter
/// of the limit ends.
const BYTES_PER_SECOND: RangeInclusive<u64> = 1 << 10..=2 << 30;

/// Times that a connection is kept without a request. Below a second it is gone before a client could use it again.
const KEEP_ALIVES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// Proxies before one door: each request is compared with all of them.
const PROXIES_MAX: usize = 64;

/// Hosts of other web pages: each request of a browser is compared with all of them.
const ORIGINS_MAX: usize = 64;

/// Times without a change. Below, a copy over the network would be loaded half; above, a new model seems not to come.
const SETTLES: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(30);

/// Times between two looks at a repository, and times for the trial of a model.
const POLLS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// Times between two probes of members. Below, the probes alone would keep small machines busy; above, a dead machine stays
/// in the list for minutes.
const PROBES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);

/// Times for the answer to a probe.
const PROBE_TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(20)..=Duration::from_secs(30);

/// Times without a packet of a node that owes some. Below, one lost packet would count; above, QUIC is sooner.
const STALLS: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(10);

/// Times that a node gets no requests.
const EJECTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

/// Least memory for models: less is a mistake in the unit.
const MEMORY_MIN: u64 = 1 << 20;

/// Least memory of a trial: ONNX Runtime itself takes a tenth of it, and a small model no more.
const TRIAL_MEMORY_MIN: u64 = 256 << 20;

/// Models that are named for the start: a node holds no more versions.
const MODELS_MAX: usize = 64;

/// One setting.
pub(super) struct Key {
    /// Its table in the file.
    pub(super) section: &'static str,
    /// Its name there.
    pub(super) name: &'static str,
    /// What values it takes, to end the sentence "allowed is …".
    pub(super) allowed: &'static str,
    /// What it does and what another value costs; lines of at most 100 characters.
    pub(super) about: &'static str,
    /// Reads a value into the configuration; `false` when it is not allowed.
    pub(super) set: fn(&mut Config, &Raw) -> bool,
    /// The value as TOML.
    pub(super) get: fn(&Config) -> toml::Value,
}

impl Key {
    /// `section.name`.
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variable that sets it.
    pub(super) fn variable(&self) -> String {
        format!("LINESIDE__{}__{}", self.section.to_uppercase(), self.name.to_uppercase())
    }
}

macro_rules! keys {
    ($($section:ident.$name:ident: $allowed:literal $(via $read:expr)? $(, if $valid:expr)?; $about:literal)*) => {
        /// Every setting, in the order of the sample file.
        pub(super) static KEYS: &[Key] = &[$(Key {
            section: stringify!($section),
            name: stringify!($name),
            allowed: $allowed,
            about: $about,
            set: |config, raw| {
                let Some(value) = keys!(@read raw $($read)?) else { return false };
                $(if !check(&value, &config.$section.$name, $valid) {
                    return false;
                })?
                config.$section.$name = value;
                true
            },
            get: |config| config.$section.$name.write(),
        },)*];
    };
    (@read $raw:ident) => { Setting::read($raw) };
    (@read $raw:ident $read:expr) => { ($read)($raw) };
}

/// Applies a rule to a value; the place where it will go tells the compiler its type.
fn check<T>(value: &T, _place: &T, valid: impl Fn(&T) -> bool) -> bool {
    valid(value)
}

keys! {
    member.name: "a name of 1 to 48 letters, digits, '-', '_' or '.', or \"auto\"",
        if |name| name.as_deref().is_none_or(is_name);
    "The member's name for people: in lists, logs and metrics. \"auto\" is the host's name."
    member.data_dir: "a directory, or \"auto\"";
    "Where identity, remembered peers and models are kept. One per member; only its owner may read it.
\"auto\" is /var/lib/lineside for root and ~/.local/share/lineside for everyone else."
    member.listen: "an IP address with an optional port, for example \"0.0.0.0:7443\"" via read_member_address;
    "Where this member listens for the others (UDP). The only port that members need between them."
    member.advertise: "an IP address that others can reach, with an optional port, or \"auto\""
        via |raw| read_or_auto(raw, read_member_address),
        if |advertise: &Option<SocketAddr>| advertise.is_none_or(|address| !address.ip().is_unspecified() && address.port() != 0);
    "The address that the others are told. Set it where \"auto\", the address of the first usable
network interface, is not the one they reach: several networks, containers, port forwarding."
    member.seeds: "a list of IP addresses with optional ports, for example [\"192.168.1.20:7443\"]"
        via |raw| read_list(raw, read_member_address),
        if |seeds: &Vec<SocketAddr>| seeds.iter().all(|seed| !seed.ip().is_unspecified() && seed.port() != 0);
    "Members to ask first, where mDNS does not reach. One that answers is enough; the rest is learned."
    member.mdns: "true or false";
    "Whether to find members on the local network by mDNS. A hint only: certificates decide."
    member.preset: "\"lan\" or \"fast\"";
    "How soon a silent member is given up: \"lan\" bears busy machines and wireless links, \"fast\"
notices a dead machine sooner and costs a false alarm now and then on a loaded one."
    member.probe_interval: "a time from 100ms to 1m, for example \"1s\", or \"auto\"",
        if |time: &Option<Duration>| time.is_none_or(|time| PROBES.contains(&time));
    "The heartbeat's interval: how often each member asks another one whether it is there. \"auto\" is the
preset's: 1s with \"lan\", 500ms with \"fast\". Shorter notices sooner and costs packets."
    member.probe_timeout: "a time from 20ms to 30s, for example \"500ms\", or \"auto\"",
        if |time: &Option<Duration>| time.is_none_or(|time| PROBE_TIMEOUTS.contains(&time));
    "The heartbeat's timeout: how long the answer may take before three others are asked to ask, too. At
most half of the interval. \"auto\" is the preset's: 500ms with \"lan\", 150ms with \"fast\"."
    member.probe_retries: "a whole number from 1 to 60, or \"auto\"",
        if |retries: &Option<std::num::NonZeroU8>| retries.is_none_or(|n| n.get() <= 60);
    "The heartbeat's retries: for so many intervals a member that did not answer is only suspected and
can object. \"auto\" is the preset's: 4 with \"lan\", 5 with \"fast\"."
    member.drain_within: "a time from 1s to 1h, for example \"30s\"", if |time| POLLS.contains(time);
    "How long a member that is told to end, by SIGTERM or `lineside drain`, finishes what runs. What
takes longer is cut off; a supervisor must wait longer than this before it kills."
    node.models: "a directory, or \"auto\"";
    "The model repository: <models>/<name>/<version>/model.onnx or <models>/<name>.onnx.
\"auto\" is the folder models in the data directory."
    node.sessions: "a whole number from 1 to 256, or \"auto\"", if |sessions| sessions.is_none_or(|n| n.get() <= 256);
    "Calls of one model that run at once, each on its own thread. \"auto\" is one per core. More than
cores makes every call slower; each session holds its own copy of the model's working memory."
    node.queue_max: "a whole number from 1 to 65536", if |queue| queue.get() <= 65_536;
    "Calls that may wait on this node. Beyond, it answers \"busy\" at once and the call moves on.
A longer queue turns refusals into waiting, and holds the waiting calls' tensors in memory."
    node.weight: "a whole number from 1 to 1000", if |weight| weight.get() <= 1_000;
    "Its share of the work, in percent of what it would get by what it can do: 50 halves it, for a
machine that has other things to do."
    node.adaptive: "true or false";
    "Whether the number of calls that this node takes at once follows from the waiting times that it
measures, between its sessions and queue_max. Without it, queue_max alone decides."
    node.onnxruntime: "the path of an ONNX Runtime library, or \"auto\"";
    "The ONNX Runtime library. \"auto\" looks for it; `lineside runtime show` tells where."
    node.control: "\"watch\", \"poll\" or \"explicit\"";
    "How the repository is looked after: \"watch\" has the system tell of changes and loads them, \"poll\"
looks again and again (for NFS, which tells nothing), \"explicit\" loads and unloads on command only."
    node.settle: "a time from 10ms to 30s, for example \"1s\"", if |time| SETTLES.contains(time);
    "With \"watch\": how long nothing may change before a change is loaded. A file that is being copied
changes all the time; copy and rename it, and less is enough."
    node.poll_interval: "a time from 1s to 1h, for example \"10s\"", if |time| POLLS.contains(time);
    "With \"poll\": how often to look. A change is loaded when a second look, a second later, finds no
other."
    node.load: "a list of at most 64 models, for example [\"add\"], or \"auto\"",
        if |models: &Option<Vec<String>>| models.as_ref().is_none_or(|models| is_models(models));
    "With \"explicit\": the models that are loaded at the start. \"auto\" is all that the repository holds."
    node.on_demand: "true or false";
    "Whether models are loaded at the first request for them, which waits for that, and not before."
    node.memory_max: "0B or a size from 1MiB, for example \"4GiB\"; 0B does not limit",
        if |size: &Size| size.0 == 0 || MEMORY_MIN <= size.0;
    "With on_demand: memory that loaded models may take. Beyond, those without calls that were not asked
for the longest are unloaded; they come back at their next request."
    node.trial: "true or false";
    "Whether a model is first loaded and run in a process of its own, so that one that crashes, takes all
memory or never ends takes nothing else with it. Without it, what is wrong with a model hits the
node."
    node.trial_time_max: "a time from 1s to 1h, for example \"2m\"", if |time| POLLS.contains(time);
    "Longest time of such a trial: loading, warm-up and measurement."
    node.trial_memory_max: "a size from 256MiB, for example \"8GiB\", or \"auto\"",
        if |size: &Option<Size>| size.is_none_or(|size| TRIAL_MEMORY_MIN <= size.0);
    "Most memory of such a trial, without what it reads of mapped files. \"auto\" is three quarters of the
machine's."
    node.model_cache: "a directory, \"none\" or \"auto\"";
    "Where the findings of trials, optimised models and compiled engines are kept, by the models' hashes.
\"auto\" is the folder cache/models in the data directory. With \"none\" each start tries all models
anew."
    gateway.http: "an IP address with a port, for example \"0.0.0.0:8080\"";
    "Where HTTP is served (TCP). Use \"127.0.0.1:8080\" to serve this machine only."
    gateway.grpc: "an IP address with a port, for example \"0.0.0.0:8001\", or \"none\"";
    "A further port where only gRPC is served (TCP): Triton's clients expect it on 8001. gRPC is served
on the port of HTTP in any case."
    gateway.tls: "\"off\", \"cluster\" or \"files\"";
    "Whether HTTPS is served, on the same ports as plain HTTP, and with which certificate: \"cluster\" has
the cluster's authority issue and renew one, which clients check with the output of `lineside certs
ca`; \"files\" takes the two files below."
    gateway.tls_certificate: "the path of a file with certificates (PEM), or \"none\"";
    "The certificate for HTTPS, and behind it those that lead to its authority. Read again when it
changes: a new pair of files is in force within seconds, a broken one is told and not taken."
    gateway.tls_key: "the path of a file with a private key (PEM), or \"none\"";
    "The key of that certificate."
    gateway.tls_only: "true or false";
    "Whether plain HTTP is refused: then nobody sends a key or a picture that others can read."
    gateway.tls_names: "a list of 1 to 16 private IP addresses and names below .local, .lan, .home.arpa, .home, .corp or .intranet, or \"auto\"",
        if |names: &Option<Vec<String>>| names.as_ref().is_none_or(|names| is_web_names(names));
    "What the cluster's certificate for HTTPS is good for: the names and addresses that clients dial.
\"auto\" is the host's name under .local, localhost, the address that the others are told, and
loopback. The authority speaks for no public name."
    gateway.trusted_proxies: "a list of at most 64 IP addresses and networks, for example [\"10.0.0.7\", \"10.1.0.0/16\"]",
        if |proxies: &Vec<String>| is_proxies(proxies);
    "Proxies whose X-Forwarded-For is believed. Only with it do limits count the clients behind a proxy
one by one; whoever is listed here can pass itself off as any address."
    gateway.allowed_origins: "a list of at most 64 host names and addresses, for example [\"panel.example.com\"]",
        if |origins: &Vec<String>| is_origins(origins);
    "Hosts whose web pages may ask this door to work, beside pages of the door itself at an address, a
local name or with HTTPS. Only browsers are asked. Without it, no page that somebody here has open
can use the line; see docs/security.md."
    gateway.compression: "true or false";
    "Whether answers are compressed for clients that offer to take them so. Costs CPU; tensors hardly
get smaller."
    gateway.keys: "\"optional\" or \"required\"";
    "Whether clients need an API key or a client certificate of the cluster over HTTP and gRPC. With
\"required\", only health, metrics, /docs and /openapi.json are for everybody."
    gateway.model_control: "\"keys\", \"open\" or \"off\"";
    "Who may load and unload models and change the log over HTTP and gRPC: holders of a key with that
method and admins, whoever is let in, or nobody."
    gateway.shards: "a whole number from 1 to 64, or \"auto\"", if |shards| shards.is_none_or(|n| n.get() <= 64);
    "Threads that serve HTTP, each with its own connections to the nodes. \"auto\" is one per core for
`lineside gateway` and 1 for `lineside up`, whose cores belong to the models."
    gateway.body_bytes_max: "a size from 1KiB to 1GiB, for example \"64MiB\"", if |size: &Size| BODY_BYTES.contains(&size.0);
    "Largest request body. The worst case in memory is this times in_flight_max."
    gateway.deadline: "a time from 1ms to 1h, for example \"10s\"", if |time| DEADLINES.contains(time);
    "Time for a request that does not say how long it may take, from its first byte to the answer's
last, waiting and failover included. Keep it above the slowest model's p99."
    gateway.deadline_max: "a time from 1ms to 1h, for example \"60s\"", if |time| DEADLINES.contains(time);
    "Longest time that a request may ask for."
    gateway.in_flight_max: "a whole number from 1 to 65536", if |n| n.get() <= 65_536;
    "Requests that are served at one time. Beyond, the answer is 503 at once."
    gateway.connections_max: "a whole number from 1 to 65536", if |n| n.get() <= 65_536;
    "Connections of HTTP clients at one time; each costs up to about 100 KiB and a file of the process.
Beyond, a new one is turned away at once."
    gateway.connections_per_address_max: "a whole number from 1 to 65536", if |n| n.get() <= 65_536;
    "Connections from one address, so that no machine takes the places of all others. Behind a proxy all
clients have one address: raise it there."
    gateway.keep_alive: "a time from 1s to 1h, for example \"60s\"", if |time| KEEP_ALIVES.contains(time);
    "How long a connection is kept between two requests. A proxy must keep its own for less, or it loses
a request now and then."
    gateway.rate_per_second: "a whole number from 0 to 1000000; 0 does not limit", if |rate| *rate <= 1_000_000;
    "Requests per second that one client (its key, else its address) may send. Beyond, the answer is
429 with the time to wait. 0 does not limit. Keys that are not the cluster's are not checked: 16 of
one address have a rate of their own, further ones share that of the address."
    gateway.burst: "a whole number from 1 to 1000000", if |burst| burst.get() <= 1_000_000;
    "Requests that one client may send at once before its rate counts."
    gateway.bytes_per_second: "0B or a size from 1KiB to 2GiB, for example \"20MiB\"; 0B does not limit",
        if |size: &Size| size.0 == 0 || BYTES_PER_SECOND.contains(&size.0);
    "Bytes of request bodies per second that one client may send. A longer one is let through when
nothing was sent for a while, and paid off afterwards."
    gateway.model_rate_per_second: "a whole number from 0 to 1000000; 0 does not limit", if |rate| *rate <= 1_000_000;
    "Inferences per second of one model, of all clients of this door together."
    gateway.x_ratelimit: "true or false";
    "Whether answers carry X-RateLimit-Limit, -Remaining and -Reset beside RateLimit, for clients that
know the older names."
    gateway.attempts_max: "a whole number from 1 to 16", if |attempts| attempts.get() <= 16;
    "Nodes tried for one request, the first included; 1 turns failover off. All tries share one deadline."
    gateway.balancing: "\"least_load\", \"round_robin\", \"weighted_round_robin\", \"power_of_two\" or \"rendezvous\"";
    "Which node gets a request: the one that will be done first, one after the other, the same with
faster ones more often, the better one of two that are drawn, or always the same one for a key,
which is the header X-Lineside-Affinity, or the client without it."
    gateway.stall_after: "0s or a time from 50ms to 10s, for example \"250ms\"; 0s waits until the connection is given up",
        if |time: &Duration| time.is_zero() || STALLS.contains(time);
    "How long a node that has requests may send no packet at all before they are tried on another one.
Shorter costs requests that are run twice where packets get lost."
    gateway.hedge: "a list of at most 64 models, for example [\"add\"]",
        if |models: &Vec<String>| is_models(models);
    "Models whose slowest twentieth of requests is sent to a second node, too; the first answer counts,
and the other request is taken back. At most one request in twenty is sent twice. Not for sequences."
    gateway.eject_failures: "a whole number from 1 to 100", if |n| n.get() <= 100;
    "Failed requests in a row after which a node that still answers others gets none for a while. One
that cannot be reached gets none at once."
    gateway.eject_success_percent: "a whole number from 0 to 99; 0 never does", if |percent| *percent <= 99;
    "The same for a node that answers a smaller share of its requests well, in percent of the last 10 s
and of at least 20, while others do better."
    gateway.eject_latency_times: "0 or a whole number from 2 to 100; 0 never does", if |times| *times == 0 || (2..=100).contains(times);
    "The same for a node that takes so many times as long as most others for the same model."
    gateway.eject_time: "a time from 100ms to 1h, for example \"2s\"", if |time| EJECTS.contains(time);
    "For how long a node gets no requests at first; it doubles each time that the one request which then
tries it fails. Never the last node that has a model."
    gateway.eject_time_max: "a time from 100ms to 1h, for example \"60s\"", if |time| EJECTS.contains(time);
    "The longest of these times."
    gateway.slow_start: "a time from 0s to 10m, for example \"10s\"", if |time| *time <= Duration::from_secs(600);
    "For how long a node that is new, or back, gets less than its share, from a tenth up to all of it."
    certs.member_lifetime: "a time from 10s to 8760h, for example \"336h\"", if |time| LIFETIMES.contains(time);
    "How long certificates of nodes and gateways live that this machine issues, where it has the
authority's key. They renew by themselves before half of it is over, so the key may be off for
about half of it; longer, and a stolen one is good for longer."
    certs.client_lifetime: "a time from 10s to 8760h, for example \"720h\"", if |time| LIFETIMES.contains(time);
    "How long certificates of clients live that this machine issues. A program renews its own while it
runs; keep it above the longest time that one is off."
    certs.passphrase_file: "the path of a file that only its owner can read, or \"none\"";
    "The file with the passphrase of the authority's key, where one was set with `lineside certs
passphrase`. With \"none\", a member cannot use such a key and commands ask for the passphrase."
    log.format: "\"auto\", \"human\" or \"json\"";
    "How log lines look. \"auto\" is human on a terminal and one JSON object per line otherwise."
    log.level: "error, warn, info, debug or trace, or directives such as \"info,lineside_mesh=debug\"",
        if |level| is_level(level);
    "Which lines are written to stderr."
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=NAME_CHARS_MAX).contains(&name.len()) && name.chars().all(allowed)
}

fn is_web_names(names: &[String]) -> bool {
    (1..=lineside_wire::WEB_NAMES_MAX).contains(&names.len())
        && names.iter().all(|name| name.parse::<WebName>().is_ok())
}

/// What a browser names as the host of a page's origin.
fn is_origins(origins: &[String]) -> bool {
    let is_host = |host: &String| {
        let is_of_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        (1..=253).contains(&host.len()) && host.chars().all(is_of_host)
    };
    origins.len() <= ORIGINS_MAX && origins.iter().all(is_host)
}

fn is_models(models: &[String]) -> bool {
    models.len() <= MODELS_MAX && models.iter().all(|name| name.parse::<lineside_wire::ModelName>().is_ok())
}

fn is_proxies(proxies: &[String]) -> bool {
    proxies.len() <= PROXIES_MAX && proxies.iter().all(|proxy| proxy.parse::<Network>().is_ok())
}

/// Whether a text is what `log.level` takes.
pub(crate) fn is_level(directives: &str) -> bool {
    // The filter takes any word for a target, so a mistyped level would silence everything without a word.
    let level = directives.split(',').all(|directive| {
        let level = directive.rsplit('=').next().unwrap_or_default().trim();
        !level.is_empty() && level.parse::<tracing_subscriber::filter::LevelFilter>().is_ok()
    });
    level && EnvFilter::try_new(directives).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(path: &str, raw: &Raw) -> bool {
        let key = KEYS.iter().find(|key| key.path() == path).expect("the key is there");
        (key.set)(&mut Config::default(), raw)
    }

    #[test]
    fn every_default_is_allowed() {
        for key in KEYS {
            let raw = super::super::load::raw(&(key.get)(&Config::default()));
            let mut config = Config::default();
            assert!((key.set)(&mut config, &raw), "{}", key.path());
            assert_eq!(config, Config::default(), "{}", key.path());
        }
    }

    #[test]
    fn values_beyond_their_range_are_refused() {
        for (path, value) in [
            ("member.name", ""),
            ("member.name", "press 1"),
            ("member.listen", "here"),
            ("member.advertise", "0.0.0.0:7443"),
            ("member.seeds", "192.168.1.20:0"),
            ("member.mdns", "maybe"),
            ("member.preset", "wan"),
            ("node.sessions", "0"),
            ("node.sessions", "257"),
            ("node.queue_max", "0"),
            ("node.control", "none"),
            ("node.settle", "1m"),
            ("node.poll_interval", "500ms"),
            ("node.load", "a model"),
            ("node.memory_max", "5B"),
            ("node.trial_time_max", "0s"),
            ("node.trial_memory_max", "1MiB"),
            ("gateway.body_bytes_max", "2GiB"),
            ("gateway.body_bytes_max", "64"),
            ("gateway.deadline", "0s"),
            ("gateway.deadline", "2h"),
            ("gateway.burst", "0"),
            ("gateway.attempts_max", "17"),
            ("gateway.attempts_max", "300"),
            ("gateway.grpc", "8001"),
            ("gateway.tls", "on"),
            ("gateway.tls_only", "yes"),
            ("gateway.tls_names", "press.example.com"),
            ("gateway.tls_names", "8.8.8.8"),
            ("gateway.tls_names", ""),
            ("gateway.trusted_proxies", "10.0.0.0/33"),
            ("gateway.keys", "none"),
            ("gateway.model_control", "admin"),
            ("gateway.connections_max", "0"),
            ("gateway.keep_alive", "100ms"),
            ("gateway.bytes_per_second", "5B"),
            ("gateway.bytes_per_second", "3GiB"),
            ("gateway.model_rate_per_second", "-1"),
            ("certs.member_lifetime", "9s"),
            ("certs.member_lifetime", "8761h"),
            ("certs.client_lifetime", "0s"),
            ("certs.passphrase_file", ""),
            ("log.format", "xml"),
            ("log.level", "verbose"),
            ("log.level", "lineside_mesh=loud"),
        ] {
            assert!(!takes(path, &Raw::Text(value.to_owned())), "{path} = {value:?}");
        }
    }

    #[test]
    fn every_key_says_what_it_is_for_in_short_lines() {
        for key in KEYS {
            assert!(!key.allowed.is_empty() && !key.about.is_empty(), "{}", key.path());
            assert!(key.about.lines().all(|line| line.len() <= 102), "{}", key.path());
        }
    }
}
