//! Dials, questions and writes on their way. The cores bound their number; this bounds the time of the first two.

use std::{collections::HashMap, thread, time::Duration};

use lineside_wire::{MemberState, NodeId};
use tokio::{
    sync::oneshot,
    task::{Id, JoinSet},
    time::timeout,
};

use crate::{Carrier, GreetError, ladder::Dial, remembered::Write};

/// Should the carrier ever forget an errand. It has its own, shorter limits.
const ERRAND_MAX: Duration = Duration::from_secs(10);

/// What an errand came back with.
#[derive(Debug)]
pub(super) enum Brought {
    Greeting { dial: Dial, result: Result<Option<MemberState>, GreetError> },
    State { node: NodeId, result: Result<MemberState, String> },
    Written(Result<(), String>),
}

#[derive(Clone, Copy, Debug)]
enum Errand {
    Dial(Dial),
    Question(NodeId),
    Write,
}

impl Errand {
    fn failed(self, reason: String) -> Brought {
        match self {
            Self::Dial(dial) => Brought::Greeting { dial, result: Err(GreetError::Failed(reason)) },
            Self::Question(node) => Brought::State { node, result: Err(reason) },
            Self::Write => Brought::Written(Err(reason)),
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

    /// Writes on a thread of its own. It takes as long as the disk does: two at once would write over each other.
    pub(super) fn write(&mut self, write: Write) {
        let task = self.tasks.spawn(async move { Brought::Written(on_thread(write).await) });
        self.about.insert(task.id(), Errand::Write);
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

/// Makes a write and waits for it. Dropping the future leaves the thread to its end.
pub(super) async fn on_thread(write: Write) -> Result<(), String> {
    let (done, result) = oneshot::channel();
    let work = move || drop(done.send(write.make().map_err(|error| error.to_string())));
    let thread = thread::Builder::new().name("lineside-members".to_owned()).spawn(work);
    thread.map_err(|error| error.to_string())?;
    result.await.unwrap_or_else(|_| Err("the thread that writes ended".to_owned()))
}
