//! A client's certificate is renewed by any member with the authority's key.

use std::{sync::Arc, time::Duration};

use lineside_certs::{Alarm, CertificateRequest, EnrolError, Identity, IdentityError, Issued};
use lineside_mesh::Destination;
use lineside_wire::{Enrolled, MemberRow, NodeId, RenewParams, Role, method};
use rand::seq::SliceRandom as _;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{Keeper, off_the_runtime, renewed, schedule::Certificate};
use crate::{AskError, roster::standing};

/// Longest wait for a renewed certificate. The authority writes it to its disk before it answers.
const RENEW_WITHIN: Duration = Duration::from_secs(10);

/// Members with the authority's key that are asked in one go. There are one or two.
const HOLDERS_MAX: usize = 4;

/// Longest time between two looks at the clock: it can be set, and a machine can sleep.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
enum NotRenewed {
    #[error("no member with the cluster's authority is there; start the one that has it")]
    NoHolder,
    #[error("{node} did not renew it: {error}")]
    NotAnswered { node: NodeId, error: AskError },
    #[error("{node} gave a certificate that cannot be used: {error}")]
    Answer { node: NodeId, error: EnrolError },
    #[error("{node} gave an identity that cannot be used: {error}")]
    Identity { node: NodeId, error: IdentityError },
}

impl Keeper {
    /// Renews the certificate when its time has come; gives the time until the next look.
    pub(super) async fn renew_when_due(&mut self) -> Duration {
        let present = self.credentials.identity();
        // An admin's certificate is issued anew; a member's belongs to the member.
        if present.role() != Role::Client {
            return LOOK_EVERY;
        }
        let certificate = Certificate::of(&present);
        let now = self.credentials.clock().now();
        let mut due = self.schedule.due(certificate, now, rand::random());
        if due <= now {
            match self.renew(&present).await {
                // A new certificate has a time of its own: this loop looks again at once.
                Ok(()) => return Duration::ZERO,
                Err(failure) => {
                    let now = self.credentials.clock().now();
                    due = self.schedule.failed(certificate, now, rand::random());
                    tell(&failure, present.renewal().alarm(now), &present);
                }
            }
        }
        due.duration_since(self.credentials.clock().now()).unwrap_or_default().min(LOOK_EVERY)
    }

    async fn renew(&self, present: &Arc<Identity>) -> Result<(), NotRenewed> {
        let (home, old) = (self.home.clone(), Arc::clone(present));
        if let Some(Some(kept)) = off_the_runtime(move || home.renewed_by_another(&old)).await {
            self.credentials.change(|present| renewed(present, kept));
            info!("another program that shares this identity has renewed it");
            return Ok(());
        }
        let (issued, identity) = self.ask_holders(present).await?;
        let expires_days =
            identity.expires_in(self.credentials.clock().now()).unwrap_or_default().as_secs() / 86_400;
        self.credentials.change(|present| renewed(present, identity));
        info!(expires_days, "the certificate was renewed");
        let home = self.home.clone();
        self.stored(off_the_runtime(move || home.store_renewed(&issued)).await);
        Ok(())
    }

    /// Asks one member with the authority's key after another.
    async fn ask_holders(&self, present: &Identity) -> Result<(Issued, Identity), NotRenewed> {
        let mut failure = NotRenewed::NoHolder;
        for to in self.holders() {
            match self.ask_holder(to, present).await {
                Ok(renewed) => return Ok(renewed),
                Err(failed) => failure = failed,
            }
        }
        Err(failure)
    }

    /// The members that say that they have the authority's key, in any order.
    fn holders(&self) -> Vec<Destination> {
        let roster = self.shared.roster.load();
        let holds = |row: &&MemberRow| {
            standing(row).is_present() && row.member.as_ref().is_some_and(|member| member.authority)
        };
        let rows = roster.rows().iter().filter(holds);
        let mut holders: Vec<_> =
            rows.map(|row| Destination { node: row.node, address: row.address }).collect();
        holders.shuffle(&mut rand::rng());
        holders.truncate(HOLDERS_MAX);
        holders
    }

    async fn ask_holder(
        &self,
        to: Destination,
        present: &Identity,
    ) -> Result<(Issued, Identity), NotRenewed> {
        let node = to.node;
        // A fresh key each time: one that was in a request whose answer was lost is never used.
        let request = CertificateRequest::new();
        let params = RenewParams { csr: request.csr().to_vec().into() };
        let until = Instant::now() + RENEW_WITHIN;
        let answer: Enrolled = self
            .shared
            .pool
            .ask_at(to, method::CERTS_RENEW, &params, until)
            .await
            .map_err(|error| NotRenewed::NotAnswered { node, error })?;
        let issued = request.renew(present, &answer).map_err(|error| NotRenewed::Answer { node, error })?;
        let identity = Identity::of(&issued).map_err(|error| NotRenewed::Identity { node, error })?;
        Ok((issued, identity))
    }
}

fn tell(failure: &NotRenewed, alarm: Alarm, present: &Identity) {
    let name = present.name();
    match alarm {
        Alarm::None => info!(name, %failure, "the certificate was not renewed; it will be tried again"),
        Alarm::Warn => warn!(name, %failure, "the certificate is not renewed and ends before long"),
        Alarm::Error => error!(name, %failure, "the certificate ends soon and cannot be renewed"),
        Alarm::Expired => error!(name, %failure, "the certificate has ended and could not be renewed"),
    }
}
