//! What operators decide about new work here: `member.cordon`, `member.undrain`, `member.drain`.
//!
//! A cordon keeps new work away, and nothing else: the member finishes what it has, takes part, and is listed. It lasts
//! over restarts, because a machine that was taken out of work must not come back by itself in the middle of what somebody
//! does to it. A drain is SIGTERM by another way: the process ends, and cannot be kept from it any more.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use lineside_certs::disk;
use lineside_discovery::Discovery;
use lineside_mesh::{Incoming, Served};
use lineside_node::NodeService;
use lineside_wire::{Empty, Fault, FaultCode, MemberState, PayloadBuilder, Role, method};
use tokio::sync::{mpsc, oneshot, watch};

use super::{own::Own, saving::on_thread};

/// Below the state directory: there while the member is cordoned. What is in it is for people; that it is there counts.
const CORDON_FILE: &str = "cordoned";

/// Orders that wait: they come from people, one at a time.
const ORDERS_MAX: usize = 8;

/// The order to leave, as SIGTERM gives it. Clones are the same one; nobody takes it back.
#[derive(Clone, Debug)]
pub(crate) struct LeaveOrder(watch::Sender<bool>);

impl Default for LeaveOrder {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl LeaveOrder {
    /// Gives it.
    pub(super) fn give(&self) {
        self.0.send_replace(true);
    }

    /// Waits for it. Cancel-safe.
    pub(super) async fn given(&self) {
        // Fails only without a sender, and this is one.
        drop(self.0.subscribe().wait_for(|given| *given).await);
    }
}

/// Whether this member was cordoned before it started. A file of which nobody can say whether it is there counts as
/// there: a machine that does too little is seen, and put right with a command.
pub(super) fn is_cordoned(state: &Path) -> bool {
    let file = state.join(CORDON_FILE);
    let there = disk::is_there(&file).unwrap_or_else(|error| {
        tracing::warn!(file = %file.display(), %error, "whether this member is cordoned cannot be read");
        true
    });
    if there {
        tracing::warn!(file = %file.display(), "this member is cordoned: it takes no new work until `lineside undrain`");
    }
    there
}

/// Serves operators' calls, on whichever mesh they come.
pub(crate) struct Operators {
    orders: mpsc::Sender<Order>,
    leave: LeaveOrder,
}

/// What [`Operators`] are told to change, for the one task that changes what the member says of itself.
pub(super) struct Orders(mpsc::Receiver<Order>);

struct Order {
    cordon: bool,
    by: String,
    done: oneshot::Sender<Result<(), Fault>>,
}

impl Operators {
    /// The two ends; `leave` is given by `member.drain`.
    pub(super) fn new(leave: LeaveOrder) -> (Self, Orders) {
        let (orders, to_do) = mpsc::channel(ORDERS_MAX);
        (Self { orders, leave }, Orders(to_do))
    }

    /// Serves one call, if its caller may.
    pub(super) fn serve(&self, call: Incoming, own: &MemberState) -> Served {
        let by = format!("{} {} ({})", call.peer.role, call.peer.name, call.peer.node);
        if let Err(fault) = may(&call, own).and_then(|()| makes_sense(&call.method, own)) {
            tracing::warn!(
                method = call.method,
                by,
                reason = fault.message,
                "an operator's order was refused"
            );
            call.reply.fail(&fault, None);
            return Served::Done;
        }
        if call.method == method::MEMBER_DRAIN {
            tracing::info!(by, "told to leave (member.drain)");
            self.leave.give();
            call.reply.answer(&Empty {}, None, PayloadBuilder::new());
            return Served::Done;
        }
        let (done, changed) = oneshot::channel();
        let order = Order { cordon: call.method == method::MEMBER_CORDON, by, done };
        if self.orders.try_send(order).is_err() {
            let text = "other orders to this member are still being carried out";
            call.reply.fail(&Fault::new(FaultCode::Busy, text).retry_after_ms(1_000), None);
            return Served::Done;
        }
        Served::Later(Box::pin(async move {
            // Nobody answers any more when the member has finished what it had.
            match changed.await.unwrap_or_else(|_| Err(leaving(""))) {
                Ok(()) => call.reply.answer(&Empty {}, None, PayloadBuilder::new()),
                Err(fault) => call.reply.fail(&fault, None),
            }
        }))
    }
}

/// Beside admins only the member itself: a command on its own machine, with its identity. Whoever can read that key can
/// end the process, too.
fn may(call: &Incoming, own: &MemberState) -> Result<(), Fault> {
    if call.peer.role == Role::Admin || call.peer.node == own.node {
        return Ok(());
    }
    let text = format!(
        "only an admin, or a command on its own machine, decides whether {} takes work; the {} {} is neither",
        own.name, call.peer.role, call.peer.name
    );
    Err(Fault::new(FaultCode::PermissionDenied, text))
}

/// Whether the order can be carried out as the member is now.
fn makes_sense(asked: &str, own: &MemberState) -> Result<(), Fault> {
    let wrong = |text: String| Err(Fault::new(FaultCode::InvalidRequest, text));
    match asked {
        method::MEMBER_CORDON if own.role != Role::Node => wrong(format!(
            "{} runs no models, so that there is no work to keep from it: take a door out of its load balancer, or end \
             it with `lineside drain`",
            own.name
        )),
        method::MEMBER_UNDRAIN if own.draining => Err(leaving(&own.name)),
        _ => Ok(()),
    }
}

fn leaving(name: &str) -> Fault {
    let who = if name.is_empty() { "this member" } else { name };
    let text = format!("{who} is leaving, which cannot be taken back: start it again when it has ended");
    Fault::new(FaultCode::InvalidRequest, text)
}

impl Orders {
    /// Carries orders out, one after the other, until it is aborted. What is said is in force before it is on the disk:
    /// a machine with a dying disk is what operators take out of work.
    pub(super) async fn carry_out(
        mut self,
        own: Arc<Own>,
        discovery: Discovery,
        node: Option<Arc<NodeService>>,
        state: PathBuf,
    ) -> &'static str {
        while let Some(Order { cordon, by, done }) = self.0.recv().await {
            if let Some(node) = node.as_ref().filter(|_| !cordon && own.is_cordoned()) {
                node.forget_sequences();
            }
            if let Some(state) = own.change(|state| state.cordoned = cordon) {
                discovery.own(state);
            }
            match cordon {
                true => tracing::info!(by, "cordoned: no new work is taken, what is here is finished"),
                false => tracing::info!(by, "work is taken again (member.undrain)"),
            }
            let file = state.join(CORDON_FILE);
            let kept = on_thread(move || keep(&file, cordon, &by).map_err(|error| error.to_string())).await;
            let kept = kept.map_err(|error| not_kept(cordon, &error));
            // Who asked may have gone; it is done all the same.
            let _gone = done.send(kept);
        }
        "whoever carries out operators' orders"
    }
}

/// Makes the next start begin like this.
fn keep(file: &Path, cordon: bool, by: &str) -> std::io::Result<()> {
    if cordon {
        return disk::write_whole(file, format!("cordoned by {by}\n").as_bytes(), 0o600);
    }
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn not_kept(cordon: bool, error: &str) -> Fault {
    tracing::error!(cordoned = cordon, error, "the next start will not know of this order");
    let now = if cordon { "no new work is taken now" } else { "work is taken again now" };
    let text = format!("{now}, but a new start of this member will not know it: its disk says: {error}");
    Fault::new(FaultCode::Internal, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cordon_outlasts_the_process_whatever_became_of_its_file() {
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join(CORDON_FILE);
        assert!(!is_cordoned(home.path()));
        keep(&file, true, "admin me").expect("writable");
        assert!(is_cordoned(home.path()));
        for damaged in ["", "\0\0\0", "cordoned by admi"] {
            fs::write(&file, damaged).expect("writable");
            assert!(is_cordoned(home.path()), "{damaged:?}");
        }
        keep(&file, false, "admin me").expect("writable");
        keep(&file, false, "admin me").expect("nothing to take back is no error");
        assert!(!is_cordoned(home.path()));
        // Not a file at all: still a cordon, and who takes it back hears that it stays.
        fs::create_dir(&file).expect("writable");
        assert!(is_cordoned(home.path()) && keep(&file, false, "admin me").is_err());
    }

    #[test]
    fn what_cannot_be_done_says_what_to_do_instead() {
        let mut own = crate::commands::connect::tests::row("press", Vec::new()).member.expect("a member");
        assert!(
            makes_sense(method::MEMBER_CORDON, &own).is_ok()
                && makes_sense(method::MEMBER_UNDRAIN, &own).is_ok()
        );
        own.draining = true;
        let refused = makes_sense(method::MEMBER_UNDRAIN, &own).expect_err("it leaves");
        assert!(refused.message.contains("press is leaving") && refused.message.contains("start it again"));
        assert!(makes_sense(method::MEMBER_DRAIN, &own).is_ok(), "the same once more changes nothing");
        assert!(makes_sense(method::MEMBER_CORDON, &own).is_ok(), "it is for the next start");
        own.role = Role::Gateway;
        let refused = makes_sense(method::MEMBER_CORDON, &own).expect_err("no models");
        assert!(refused.message.contains("lineside drain"), "{}", refused.message);
    }

    #[tokio::test]
    async fn the_order_to_leave_reaches_whoever_waits_whenever_it_came() {
        let order = LeaveOrder::default();
        let given = order.clone();
        tokio::join!(order.given(), async { given.give() });
        order.given().await;
    }
}
