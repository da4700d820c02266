//! Dials and questions on their way. The cores bound their number; this bounds their time.

use std::{collections::HashMap, time::Duration};

use lineside_wire::{MemberState, NodeId};
use tokio::{
    task::{Id, JoinSet},
    time::timeout,
};

use crate::{Carrier, GreetError, ladder::Dial};

/// Should the carrier ever forget an errand. It has its own, shorter limits.
const ERRAND_MAX: Duration = Duration::from_secs(10);

/// What an errand came back with.
#[derive(Debug)]
pub(super) enum Brought {
    Greeting { dial: Dial, result: Result<Option<MemberState>, GreetError> },
    State { node: NodeId, result: Result<MemberState, String> },
}

#[derive(Clone, Copy, Debug)]
enum Errand {
    Dial(Dial),
    Question(NodeId),
}

impl Errand {
    fn failed(self, reason: String) -> Brought {
        match self {
            Self::Dial(dial) => Brought::Greeting { dial, result: Err(GreetError::Failed(reason)) },
            Self::Question(node) => Brought::State { node, result: Err(reason) },
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Errands {
    tasks: JoinSet<Brought>,
    /// What each task is about, should it panic.
    about: HashMap<Id, Errand>,
}

impl Errands {
    /// Who is expected is left open when it is our own id: a carrier may have a connection with ourselves, and would take
    /// that one.
    pub(super) fn dial(&mut self, carrier: &dyn Carrier, dial: Dial, own: NodeId) {
        let greeting = carrier.greet(dial.address, dial.expect.filter(|expected| *expected != own));
        self.begin(Errand::Dial(dial), async move { Brought::Greeting { dial, result: greeting.await } });
    }

    pub(super) fn ask(&mut self, carrier: &dyn Carrier, node: NodeId, address: std::net::SocketAddr) {
        let state = carrier.fetch(node, address);
        self.begin(Errand::Question(node), async move { Brought::State { node, result: state.await } });
    }

    fn begin(&mut self, errand: Errand, work: impl Future<Output = Brought> + Send + 'static) {
        let bounded = async move {
            let late = || errand.failed(format!("no end within {ERRAND_MAX:?}"));
            timeout(ERRAND_MAX, work).await.unwrap_or_else(|_| late())
        };
        let task = self.tasks.spawn(bounded);
        self.about.insert(task.id(), errand);
    }

    /// The next one that came back; `None` when none is on its way.
    pub(super) async fn next(&mut self) -> Option<Brought> {
        let (id, brought) = match self.tasks.join_next_with_id().await? {
            Ok((id, brought)) => (id, Some(brought)),
            Err(error) => (error.id(), None),
        };
        let errand = self.about.remove(&id)?;
        Some(brought.unwrap_or_else(|| errand.failed("the carrier panicked".to_owned())))
    }
}
