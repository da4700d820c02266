//! The methods between members, with their params and results.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    ClusterId, Datatype, EngineInfo, ModelName, ModelVersion, NodeId, RequestId, Role, Task, TrustStamp,
};

/// The names of the methods.
pub mod method {
    /// First call on every connection: a peer is up once it has answered. [`Greeting`](super::Greeting) both ways.
    pub const HELLO: &str = "hello";
    /// Answers an empty map at once: the round trip of the network alone.
    pub const PING: &str = "ping";
    /// [`Health`](super::Health).
    pub const HEALTH: &str = "health";
    /// Runs a model: [`InferParams`](super::InferParams) to [`InferResult`](super::InferResult), tensors behind.
    pub const INFER: &str = "infer";
    /// The models here (a gateway: in the cluster): [`ModelsResult`](super::ModelsResult).
    pub const MODELS_LIST: &str = "models.list";
    /// One model: [`ModelParams`](super::ModelParams) to [`ModelInfo`](super::ModelInfo).
    pub const MODELS_GET: &str = "models.get";
    /// Loads a model from this node's repository: [`ModelParams`](super::ModelParams) to `ModelsResult`. From a door, on
    /// every node that has it: [`ChangeParams`](crate::ChangeParams) to
    /// [`ChangeResult`](crate::ChangeResult).
    pub const MODELS_LOAD: &str = "models.load";
    /// Unloads a model from this node, or from all: as `models.load`.
    pub const MODELS_UNLOAD: &str = "models.unload";
    /// What the models here have done (a gateway: those of the cluster): [`StatisticsParams`](crate::StatisticsParams) to
    /// [`StatisticsResult`](crate::StatisticsResult).
    pub const MODELS_STATISTICS: &str = "models.statistics";
    /// What a member says of itself: [`MemberState`](super::MemberState).
    pub const MEMBER_STATE: &str = "member.state";
    /// Finishes what runs here, takes nothing new, leaves the cluster and ends: as SIGTERM. `{}` to `{}`, at once.
    pub const MEMBER_DRAIN: &str = "member.drain";
    /// Takes no new work here, until `member.undrain`, a new start included. `{}` to `{}`.
    pub const MEMBER_CORDON: &str = "member.cordon";
    /// Takes work again. `{}` to `{}`.
    pub const MEMBER_UNDRAIN: &str = "member.undrain";
    /// The members as this one sees them: [`MembersResult`](super::MembersResult).
    pub const CLUSTER_MEMBERS: &str = "cluster.members";
    /// The same as a streamed result: one [`MembersResult`](super::MembersResult) at once and one at each change, until
    /// the caller cancels.
    pub const CLUSTER_WATCH: &str = "cluster.watch";
    /// A summary of the cluster: [`ClusterStatus`](super::ClusterStatus).
    pub const CLUSTER_STATUS: &str = "cluster.status";
    /// A new certificate for the caller, which it asks of a member with the authority's key:
    /// [`RenewParams`](crate::RenewParams) to [`Enrolled`](crate::Enrolled).
    pub const CERTS_RENEW: &str = "certs.renew";
    /// A certificate for HTTPS with names that clients dial, asked of a member with the authority's key:
    /// [`WebParams`](crate::WebParams) to [`Enrolled`](crate::Enrolled).
    pub const CERTS_WEB: &str = "certs.web";
    /// Whom the cluster trusts, as the asked member knows it: [`SignedTrust`](crate::SignedTrust).
    pub const TRUST_GET: &str = "trust.get";
    /// A first certificate for a token. Not a call between members: the one method of the protocol `lineside-join/1`.
    /// [`JoinParams`](crate::JoinParams) to [`Enrolled`](crate::Enrolled).
    pub const ENROL_JOIN: &str = "enrol.join";
    /// Notification: the caller no longer wants the call with this id. [`CancelParams`](super::CancelParams).
    pub const CANCEL: &str = "$/cancelRequest";
}

/// What accompanies every request: how long, which try, whose trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallContext {
    /// Time left for the call, in microseconds, from when the frame was sent: clocks need not agree.
    /// `None` leaves it to the receiver's own limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_us: Option<u64>,
    /// Which try this is; the first is 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u8,
    /// W3C Trace Context, as in the HTTP header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// 1 is the highest; 0, the default, is the model's own default.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: u8,
    /// Calls with the same key may be done once in the place of twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Calls of one session belong to one node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Calls with the same key go to the same node while it has room, so that what it keeps in its caches is used again.
    /// Unlike a session it is a wish: nothing is lost when another node answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
}

fn is_zero(number: &u8) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_none(number: &u32) -> bool {
    *number == 0
}

impl CallContext {
    /// Whether nothing is set, so that the member can be left out.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How much a node has to do. In every answer and in gossip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Calls that run now.
    pub running: u32,
    /// Calls that wait.
    pub queued: u32,
    /// Calls that can run at once: the node's weight.
    pub slots: u32,
    /// Calls that it takes at once, those that wait included; 0 where it does not say. The node moves it with what it
    /// measures.
    #[serde(default, skip_serializing_if = "is_none")]
    pub limit: u32,
    /// Time of one call on one slot, in microseconds, on average over what it ran lately; 0 where it does not know yet. A
    /// run that answers several calls counts as its part of each.
    #[serde(default, skip_serializing_if = "is_none")]
    pub call_us: u32,
}

/// Who answered a call, and how long it took there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunReport {
    /// The node that did the work.
    pub node: NodeId,
    /// Its load after this call.
    pub load: LoadReport,
    /// Time in the node's queue, in microseconds.
    #[serde(default)]
    pub queue_us: u64,
    /// Time of the run itself, in microseconds.
    #[serde(default)]
    pub run_us: u64,
    /// Tries that the answer took; 1 unless a gateway moved the call.
    #[serde(default = "one")]
    pub attempts: u8,
    /// Rows that ran together with this call's; 1 where the node did not join it with others.
    #[serde(default = "one_row", skip_serializing_if = "is_one")]
    pub batch: u32,
}

const fn whole() -> u16 {
    100
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_whole(percent: &u16) -> bool {
    *percent == 100
}

fn one() -> u8 {
    1
}

fn one_row() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_one(rows: &u32) -> bool {
    *rows == 1
}

/// A parameter of the Open Inference Protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Parameter {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A whole number beyond an `i64`.
    Unsigned(u64),
    /// Any other number.
    Number(f64),
    /// Text.
    Text(String),
}

/// Parameters by name.
pub type Parameters = BTreeMap<String, Parameter>;

/// One tensor in a document; its bytes are in the payload, in the document's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorHeader {
    /// The model's name for it.
    pub name: String,
    /// Its element type.
    pub datatype: Datatype,
    /// Its dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Its bytes in the payload, without padding.
    pub byte_length: u64,
}

/// The params of `infer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InferParams {
    /// Which model.
    pub model: ModelName,
    /// Which version; `None` is the latest that is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<ModelVersion>,
    /// The inputs, in the payload's order.
    pub inputs: Vec<TensorHeader>,
    /// Names of the outputs that are wanted, in this order; empty wants all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// Parameters that the node may use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: Parameters,
    /// What the inputs are, where they are not the model's own tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// Outputs that come as their largest elements: how many, by the output's name. Each is then BYTES, one text
    /// `value:index` or `value:index:label` for each of them, largest first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub classification: BTreeMap<String, u32>,
}

/// The result of `infer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InferResult {
    /// Which model ran.
    pub model: ModelName,
    /// Which version ran.
    pub version: ModelVersion,
    /// The outputs, in the payload's order.
    pub outputs: Vec<TensorHeader>,
    /// Parameters of the answer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: Parameters,
}

/// An input or output of a model, as its file declares it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub datatype: Datatype,
    /// Its dimensions; -1 varies.
    pub shape: Vec<i64>,
}

/// What a model version can do now; Triton's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ModelState {
    /// Being loaded.
    Loading,
    /// Serves.
    Ready,
    /// Takes no new calls, finishes those it has.
    Unloading,
    /// Does not serve; the reason says why.
    Unavailable,
}

impl ModelState {
    /// Triton's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "LOADING",
            Self::Ready => "READY",
            Self::Unloading => "UNLOADING",
            Self::Unavailable => "UNAVAILABLE",
        }
    }
}

/// One version of a model on one node (from a gateway: in the cluster).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Its name.
    pub name: ModelName,
    /// Its version.
    pub version: ModelVersion,
    /// Whether it serves.
    pub state: ModelState,
    /// Why it does not, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its inputs; empty until it was loaded once.
    #[serde(default)]
    pub inputs: Vec<TensorSpec>,
    /// Its outputs.
    #[serde(default)]
    pub outputs: Vec<TensorSpec>,
    /// Calls of it that can run at once on the node.
    #[serde(default)]
    pub slots: u32,
    /// What it can do beyond tensors in, tensors out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<Task>,
    /// How the node runs it; absent until it was loaded once, and where a list has no room for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Box<EngineInfo>>,
}

/// The params of the methods about one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelParams {
    /// Which model.
    pub model: ModelName,
    /// Which version; `None` is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<ModelVersion>,
}

/// The result of `models.list`, `models.load` and `models.unload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelsResult {
    /// The models, by name and version.
    pub models: Vec<ModelInfo>,
}

/// What a member says of itself, in the greeting and when asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberState {
    /// Who.
    pub node: NodeId,
    /// Its name for people.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Its software, for example `0.1.0`.
    pub software: String,
    /// Where it listens for members (UDP).
    #[serde(with = "crate::address")]
    pub address: SocketAddr,
    /// Where its HTTP door is, if it has one (TCP).
    #[serde(default, with = "crate::address::optional", skip_serializing_if = "Option::is_none")]
    pub http: Option<SocketAddr>,
    /// Whether it forwards calls to nodes: a gateway, or `lineside up`.
    #[serde(default)]
    pub door: bool,
    /// Counts starts; the larger one of two with the same id is the living one.
    pub epoch: u64,
    /// Counts changes of this state within an epoch.
    pub revision: u64,
    /// Whether it is leaving.
    #[serde(default)]
    pub draining: bool,
    /// Whether an operator keeps new work from it: it stays a member, and finishes what it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cordoned: bool,
    /// How much work it is to get beside others of its kind, in percent: 100 is its share by what it can do, 50 half of it.
    #[serde(default = "whole", skip_serializing_if = "is_whole")]
    pub weight: u16,
    /// How much it has to do.
    #[serde(default)]
    pub load: LoadReport,
    /// Its models; empty on a gateway.
    #[serde(default)]
    pub models: Vec<ModelInfo>,
    /// When its certificate ends, in seconds since 1970.
    #[serde(default)]
    pub certificate_expires: u64,
    /// Generation of the authority that signed its certificate.
    #[serde(default)]
    pub certificate_generation: u32,
    /// The trust list that it goes by.
    #[serde(default)]
    pub trust: TrustStamp,
    /// Whether it has the authority's key, and can renew certificates.
    #[serde(default)]
    pub authority: bool,
}

/// The params and the result of `hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The protocol version the sender speaks (in the answer: the one that both will).
    pub protocol: u16,
    /// The cluster, so that a wrong one is named before anything else fails.
    pub cluster: ClusterId,
    /// What the sender says of itself; clients and admins, who are no members, say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberState>,
    /// The sender's clock, in milliseconds since 1970; 0 does not say. Nothing is decided by it: people are told when
    /// clocks differ.
    #[serde(default)]
    pub clock_ms: u64,
}

/// Version of the protocol that this crate speaks.
pub const PROTOCOL_VERSION: u16 = 1;

/// One line of the member list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRow {
    /// Who.
    pub node: NodeId,
    /// Its name for people; empty until it has said it.
    pub name: String,
    /// Where it listens for members.
    #[serde(with = "crate::address")]
    pub address: SocketAddr,
    /// `alive`, `suspect`, `down` or `left`.
    pub state: String,
    /// Its role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// What it said of itself last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberState>,
    /// Milliseconds since it was last heard.
    pub seen_ms_ago: u64,
    /// Calls in flight to it from the answering door.
    #[serde(default)]
    pub in_flight: u32,
    /// 95th percentile of the answering door's calls to it, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_us: Option<u64>,
    /// Calls of the answering door to it, since its start.
    #[serde(default)]
    pub calls: u64,
    /// Of these, those that failed.
    #[serde(default)]
    pub failures: u64,
    /// Why the answering door gives it no calls for now: `broken`, `errors`, `success_rate`, `latency` or `leaving`; further
    /// reasons may come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rests: Option<String>,
    /// How often the answering door gave it none for a while, by reason, since the door's start.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ejections: BTreeMap<String, u64>,
    /// How far its clock was ahead of the answering member's when they last met, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_ahead_ms: Option<i64>,
    /// Where another machine with the same node id was heard: a copied disk.
    #[serde(default, with = "crate::address::optional", skip_serializing_if = "Option::is_none")]
    pub double: Option<SocketAddr>,
}

/// The result of `cluster.members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersResult {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member that answers.
    pub answered_by: NodeId,
    /// All members that were ever seen, dead ones too, by name.
    pub members: Vec<MemberRow>,
}

/// The result of `cluster.status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member that answers.
    pub answered_by: NodeId,
    /// Members that are alive.
    pub alive: u32,
    /// Members that were seen and are not alive now.
    pub not_alive: u32,
    /// Models that at least one node serves.
    pub models_ready: u32,
    /// Models that are known.
    pub models: u32,
    /// Calls in flight on all nodes, as last reported.
    pub in_flight: u32,
    /// Calls that can run at once on all nodes.
    pub slots: u32,
}

/// The result of `health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Always true in an answer.
    pub live: bool,
    /// Whether new work is taken.
    pub ready: bool,
    /// Why not, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The params of `$/cancelRequest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelParams {
    /// Which call.
    pub id: RequestId,
}

/// The result of methods that have nothing to say, and the params of those that want nothing: an empty map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}
