//! Who answers which method: the member itself, its node, or its door.
//!
//! | caller | infer, models.list, models.get | models.load, .unload, .statistics | health | cluster.members, cluster.status |
//! |---|---|---|---|---|
//! | node, gateway | the node here; without one the door | the node here; without one nobody | the node here; without one the member | the member |
//! | client, admin | the door; without one the node here | the same: the door asks all nodes | the same | the same, else the member |
//!
//! A member's call goes to the node here, so that no call goes round in circles. A door by itself may take an inference:
//! it calls nodes only, and those answer or refuse. What a door asks of all nodes at once it never takes from a member:
//! a door by itself may be among those that are asked.
//!
//! `ping`, `member.state`, `trust.get`, `log` and `cluster.watch` are the member's for every caller; `certs.renew` and
//! `certs.web` are the authority's, on members that have its key; `member.drain`, `member.cordon` and `member.undrain` are
//! operators' orders (`cordon`). They are never forwarded.

use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;
use lineside_certs::{Credentials, roles};
use lineside_gateway::DoorService;
use lineside_mesh::{Incoming, Served, Service};
use lineside_node::NodeService;
use lineside_wire::{
    Empty, Enrolled, Fault, FaultCode, Health, PayloadBuilder, StatisticsResult, decode_part, method,
};
use tokio_util::task::TaskTracker;

use super::{cordon::Operators, desk::Desk, door::DoorCluster, known::Known, own::Own, watch};

/// Longest text that `log` writes, in characters: a mark, no document.
const LOG_CHARS_MAX: usize = 512;

/// Serves peers on every mesh of this process.
pub(crate) struct MemberService {
    pub(crate) own: Arc<Own>,
    pub(crate) node: Option<Arc<NodeService>>,
    pub(crate) credentials: Credentials,
    /// The authority's, where its key is here.
    pub(crate) desk: Option<Desk>,
    pub(crate) operators: Operators,
    /// Set once the listening mesh exists, which the door calls nodes with.
    pub(crate) door: OnceLock<DoorService<DoorCluster>>,
    /// Set once discovery runs; the listening mesh exists a moment before.
    pub(crate) known: OnceLock<Arc<Known>>,
    /// Calls that the door works on: waited for at the end.
    pub(crate) calls: TaskTracker,
}

impl Service for MemberService {
    fn serve(&self, call: Incoming) -> Served {
        match call.method.as_str() {
            method::PING => answer(call, &Empty {}),
            method::MEMBER_STATE => {
                let state = self.own.state();
                answer(call, &*state)
            }
            method::TRUST_GET => self.trust(call),
            method::CERTS_RENEW | method::CERTS_WEB => self.issue(call),
            roles::LOG => self.log(call),
            method::MEMBER_DRAIN | method::MEMBER_CORDON | method::MEMBER_UNDRAIN => {
                let own = self.own.state();
                self.operators.serve(call, &own)
            }
            method::CLUSTER_WATCH => match self.known.get() {
                Some(known) => watch::serve(call, Arc::clone(known)),
                None => refuse(call, &starting()),
            },
            method::MODELS_LOAD | method::MODELS_UNLOAD | method::MODELS_STATISTICS
                if call.peer.role.is_member() =>
            {
                self.by_own_node(call)
            }
            _ if call.peer.role.is_member() => self.by_member(call),
            _ => match self.door.get() {
                Some(door) => self.by_door(door, call),
                None => self.by_member(call),
            },
        }
    }

    fn abandoned(&self) {
        if let Some(node) = &self.node {
            node.abandoned();
        }
    }
}

impl MemberService {
    /// Serves what a member can answer before its door and discovery are there.
    pub(crate) fn new(
        own: Arc<Own>,
        node: Option<Arc<NodeService>>,
        credentials: Credentials,
        desk: Option<Desk>,
        operators: Operators,
    ) -> Self {
        let (door, known) = (OnceLock::new(), OnceLock::new());
        Self { own, node, credentials, desk, operators, door, known, calls: TaskTracker::new() }
    }

    fn trust(&self, call: Incoming) -> Served {
        match self.credentials.identity().trust().signed() {
            Some(list) => answer(call, list),
            None => refuse(
                call,
                &Fault::new(FaultCode::Unreachable, "this member has no trust list; ask another one"),
            ),
        }
    }

    /// The desk issues for whoever the connection's certificate says that it is.
    fn issue(&self, call: Incoming) -> Served {
        let Some(desk) = self.desk.as_ref().filter(|desk| desk.is_open()) else {
            let text = "this member does not have the authority's key; ask one that has";
            return refuse(call, &Fault::new(FaultCode::Unreachable, text));
        };
        let peer = call.peer.as_ref().clone();
        let issued: Result<BoxFuture<'static, Result<Enrolled, Fault>>, Fault> = match call.method.as_str() {
            method::CERTS_WEB => decode_part(&call.params).map(|params| desk.web(peer, params)),
            _ => decode_part(&call.params).map(|params| desk.renew(peer, params)),
        };
        let issued = match issued {
            Ok(issued) => issued,
            Err(fault) => return refuse(call, &fault),
        };
        Served::Later(Box::pin(async move {
            match issued.await {
                Ok(enrolled) => call.reply.answer(&enrolled, None, PayloadBuilder::new()),
                Err(fault) => call.reply.fail(&fault, None),
            }
        }))
    }

    fn by_door(&self, door: &DoorService<DoorCluster>, call: Incoming) -> Served {
        if call.method == method::INFER && self.own.state().draining {
            let text = "this door is closing; another one of the cluster takes the call";
            return refuse(call, &Fault::new(FaultCode::Draining, text));
        }
        match door.serve(call) {
            Served::Done => Served::Done,
            Served::Later(work) => Served::Later(Box::pin(self.calls.track_future(work))),
        }
    }

    /// What a member answers without a door.
    fn by_member(&self, call: Incoming) -> Served {
        let Some(known) = self.known.get() else { return refuse(call, &starting()) };
        match call.method.as_str() {
            method::CLUSTER_MEMBERS => answer(call, &known.members()),
            method::CLUSTER_STATUS => answer(call, &known.roster().status()),
            method::HEALTH if self.node.is_none() => {
                let ready = known.roster().ready();
                answer(call, &Health { live: true, ready: ready.is_ok(), reason: ready.err() })
            }
            method::HEALTH if self.own.is_cordoned() => {
                let reason = Some("this node is cordoned: it takes no new work".to_owned());
                answer(call, &Health { live: true, ready: false, reason })
            }
            _ => self.by_node(call),
        }
    }

    /// What is asked of each node by itself.
    fn by_own_node(&self, call: Incoming) -> Served {
        match &self.node {
            Some(node) => node.serve(call),
            None if call.method == method::MODELS_STATISTICS => answer(call, &StatisticsResult::default()),
            None => refuse(call, &Fault::new(FaultCode::ModelNotFound, "this member runs no models")),
        }
    }

    fn by_node(&self, call: Incoming) -> Served {
        match &self.node {
            // Whoever has not heard of the cordon yet goes elsewhere; the door of this process does so by itself.
            Some(_) if call.method == method::INFER && self.own.is_cordoned() => {
                let text =
                    "this node is cordoned: it takes no new work; another one of the cluster takes the call";
                refuse(call, &Fault::new(FaultCode::Draining, text))
            }
            Some(node) => node.serve(call),
            // A door by itself: it calls nodes only, which answer or refuse, so that this is no circle either.
            None => match self.door.get() {
                Some(door) => self.by_door(door, call),
                None => refuse(call, &starting()),
            },
        }
    }

    fn log(&self, call: Incoming) -> Served {
        match decode_part::<String>(&call.params) {
            Ok(text) => {
                let mark: String = text.chars().filter(|c| !c.is_control()).take(LOG_CHARS_MAX).collect();
                tracing::info!(from = %call.peer.node, role = %call.peer.role, mark, "a mark from a peer");
                answer(call, &Empty {})
            }
            Err(fault) => refuse(call, &fault),
        }
    }
}

fn starting() -> Fault {
    Fault::new(FaultCode::Unreachable, "this member is starting; try again").retry_after_ms(200)
}

fn answer<R: serde::Serialize>(call: Incoming, result: &R) -> Served {
    call.reply.answer(result, None, PayloadBuilder::new());
    Served::Done
}

fn refuse(call: Incoming, fault: &Fault) -> Served {
    call.reply.fail(fault, None);
    Served::Done
}
