//! Keeps a client trusting the right ones, and trusted: newer trust lists are taken over, the certificate is renewed.
//!
//! Members tell in the member list which trust list they go by; a client that sees a higher number asks for the list,
//! and takes it only from an authority that it trusts already. A client renews its certificate, with a fresh key, at
//! any member with the authority's key; nodes and gateways do that themselves, and an admin's is never renewed.

mod renewing;
mod schedule;
mod sources;

use std::{sync::Arc, time::Duration};

use lineside_certs::{Credentials, Identity, IdentityError, Trust, TrustError};
use lineside_wire::{Empty, SignedTrust, method};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::connect::Shared;
use crate::{AskError, ClientIdentity, identity::Home};
use schedule::Schedule;
use sources::{Source, Sources};

/// Longest wait for a trust list.
const TRUST_WITHIN: Duration = Duration::from_secs(2);

/// Members that are asked for a trust list before the renewal has its turn.
const ASKED_MAX: usize = 8;

/// Longest wait for a disk: what is to be read or written there is not needed to go on.
const FILES_WITHIN: Duration = Duration::from_secs(10);

/// Shortest time between two looks at the member list, however often it changes.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// One client's keeper: a loop that ends when it is dropped.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    credentials: Credentials,
    home: Home,
    sources: Sources,
    schedule: Schedule,
}

/// Why a trust list was not taken over.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error(transparent)]
    Silent(AskError),
    #[error(transparent)]
    Refused(#[from] TrustError),
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, identity: &ClientIdentity) -> Self {
        let (credentials, home) = (identity.credentials().clone(), identity.home().clone());
        Self { shared, credentials, home, sources: Sources::default(), schedule: Schedule::default() }
    }

    pub(super) async fn run(mut self) {
        loop {
            self.follow_trust().await;
            let wait = self.renew_when_due().await;
            tokio::select! {
                () = self.shared.told.notified() => {}
                () = sleep(wait) => {}
            }
            sleep(LOOK_PAUSE).await;
        }
    }

    /// Takes over the newest trust list that a member tells of.
    async fn follow_trust(&mut self) {
        for _ in 0..ASKED_MAX {
            let roster = self.shared.roster.load_full();
            self.sources.forget_all_but(roster.rows());
            let known = self.credentials.identity().trust().stamp();
            let Some(source) = self.sources.newer_than(known, roster.rows(), Instant::now()) else { return };
            match self.ask_for_trust(source).await {
                Ok(trust) => self.take_over(trust).await,
                Err(NotTaken::Silent(error)) => {
                    debug!(node = %source.to.node, %error, "no trust list from there");
                    self.sources.is_silent(source, Instant::now());
                }
                Err(NotTaken::Refused(error)) => {
                    if self.sources.is_refused(source, Instant::now()) {
                        let (node, number) = (source.to.node, source.stamp.number);
                        warn!(%node, number, %error, "a member's trust list was not taken; the one before stays in force");
                    }
                }
            }
        }
    }

    async fn ask_for_trust(&self, source: Source) -> Result<Trust, NotTaken> {
        let until = Instant::now() + TRUST_WITHIN;
        let answer = self.shared.pool.ask_at(source.to, method::TRUST_GET, &Empty {}, until).await;
        let signed: SignedTrust = answer.map_err(NotTaken::Silent)?;
        Ok(self.credentials.identity().trust().succeed(&signed)?)
    }

    async fn take_over(&self, trust: Trust) {
        let number = trust.stamp().number;
        self.credentials.change(|present| trusting(present, &trust));
        info!(number, "a newer trust list is in force");
        let home = self.home.clone();
        self.stored(off_the_runtime(move || home.store_trust(&trust)).await);
    }

    fn stored(&self, result: Option<Result<(), IdentityError>>) {
        match result {
            Some(Ok(())) => {}
            Some(Err(error)) => warn!(%error, "the identity's files could not be brought up to date"),
            None => warn!("the identity's files could not be brought up to date: the disk does not answer"),
        }
    }
}

/// The identity going by this list, where the one that it goes by is older: several clients of one program may share
/// credentials, and each brings what it hears.
fn trusting(present: &Identity, trust: &Trust) -> Option<Arc<Identity>> {
    let is_newer = present.trust().stamp().number < trust.stamp().number;
    is_newer.then(|| Arc::new(present.with_trust(trust.clone())))
}

/// A renewed identity going by the newer of both trust lists, unless it ends before the present one.
fn renewed(present: &Identity, renewed: Identity) -> Option<Arc<Identity>> {
    if renewed.not_after() < present.not_after() {
        return None;
    }
    let renewed = Arc::new(renewed);
    Some(trusting(&renewed, present.trust()).unwrap_or(renewed))
}

/// Does what may wait for a disk on a thread of its own: the program's calls go on meanwhile. `None` when it took too
/// long, or there is no such thread to be had.
async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("lineside-files".to_owned());
    thread.spawn(move || drop(done.send(work()))).ok()?;
    timeout(FILES_WITHIN, result).await.ok()?.ok()
}
