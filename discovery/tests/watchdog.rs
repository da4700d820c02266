//! A gossip thread that is stuck is seen, and one that is well is left alone.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod floor;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use floor::{Floor, PATIENCE, Start, address, state};
use lineside_discovery::{BoxFuture, Carrier, Discovery, GreetError};
use lineside_wire::{MemberState, NodeId};
use tokio::time::{Instant, timeout};

/// A carrier that keeps the gossip thread, as a lock that is never given back would.
#[derive(Default)]
struct Trap {
    is_open: Mutex<bool>,
    opened: Condvar,
    caught: AtomicBool,
}

impl Trap {
    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

impl Carrier for Trap {
    fn send(&self, _: NodeId, _: SocketAddr, _: Bytes) {}

    fn greet(
        &self,
        _: SocketAddr,
        _: Option<NodeId>,
    ) -> BoxFuture<'static, Result<Option<MemberState>, GreetError>> {
        let mut is_open = self.is_open.lock().unwrap();
        self.caught.store(true, Ordering::SeqCst);
        while !*is_open {
            is_open = self.opened.wait(is_open).unwrap();
        }
        Box::pin(async { Err(GreetError::Failed("nobody".to_owned())) })
    }

    fn fetch(&self, _: NodeId, _: SocketAddr) -> BoxFuture<'static, Result<MemberState, String>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_thread_that_is_stuck_is_seen() {
    let (floor, trap) = (Floor::new(), Arc::new(Trap::default()));
    let opened = Discovery::open(floor.config(1, Start { seeds: &[2], ..Start::default() })).unwrap();
    let carrier: Arc<dyn Carrier> = Arc::clone(&trap) as _;
    let discovery = opened.start(MemberState { address: address(1), ..state(1, 1) }, carrier).unwrap();
    let begin = Instant::now();
    timeout(PATIENCE, discovery.stuck()).await.expect("the watchdog sees it");
    assert!(trap.caught.load(Ordering::SeqCst));
    assert!(Duration::from_secs(5) <= begin.elapsed() && Duration::from_secs(4) < discovery.last_turn());
    // What it waited for comes after all, and it goes on.
    trap.open();
    timeout(PATIENCE, async {
        while Duration::from_secs(1) < discovery.last_turn() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("it turns again");
}

#[tokio::test]
async fn a_thread_that_is_well_is_left_alone_also_after_it_has_left() {
    let floor = Floor::new();
    let member = floor.start(1, Start::default());
    let stuck = timeout(Duration::from_secs(7), member.discovery.stuck()).await;
    assert!(stuck.is_err(), "it had nothing to do, and turned all the same");
    member.discovery.leave().await;
    let stuck = timeout(Duration::from_secs(7), member.discovery.stuck()).await;
    assert!(stuck.is_err(), "it has left in good order");
}
