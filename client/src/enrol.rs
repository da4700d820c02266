//! Becoming a member: the token's addresses in turn, one request for all of them.
//!
//! An answer that was lost is no loss while this goes on: the same token with the same request gets the same
//! certificate again, from any holder of the authority's key.

mod failure;

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lineside_certs::{CertificateRequest, Issued, Token};
use lineside_mesh::JOIN_TIME_MAX;
use lineside_wire::{Enrolled, Role};
use tokio::{
    net::lookup_host,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tracing::{debug, warn};

use failure::Verdict;
pub use failure::{EnrolFailure, TokenFate, Tried, TryError};

/// Longest time for all addresses together: a person waits for it.
const ENROL_WITHIN: Duration = Duration::from_secs(30);

/// Longest time for one address: as long as a join may take on either side, and a goodbye.
const TRY_WITHIN: Duration = JOIN_TIME_MAX.saturating_add(Duration::from_secs(1));

/// Longest time for one name: name servers that are down must leave time for the other addresses.
const RESOLVE_WITHIN: Duration = Duration::from_secs(3);

/// Most addresses of one name that are tried. A machine has one or two; a token is no list of a network.
const ADDRESSES_PER_NAME_MAX: usize = 4;

/// Shortest pause before an address that was too busy is asked again.
const AGAIN_AFTER_MIN: Duration = Duration::from_millis(100);

/// From how much on a person is told that this machine's clock and the authority's differ.
const CLOCK_APART_MAX: Duration = Duration::from_secs(5 * 60);

/// Becomes a member with a token: asks the members at its addresses, one after another, for a first certificate.
///
/// `role` must be the token's; a name in the token outranks `name`. Nothing is stored: see
/// [`Identity::store`](lineside_certs::Identity::store) and [`Identity::of`](lineside_certs::Identity::of). Ends within
/// 30 s. Dropping the future gives up; the token may be used by then.
///
/// # Errors
/// What happened at each address, what to do, and whether the token can still be used.
pub async fn enrol(token: &Token, role: Role, name: &str) -> Result<Issued, EnrolFailure> {
    let request = CertificateRequest::new();
    let joining = Joining { token, role, name, request: &request, until: Instant::now() + ENROL_WITHIN };
    let (address, answer) = joining.ask_all().await?;
    tell_clock(address, answer.now);
    let issued = request.complete(&answer, Some(token.authority()));
    issued.map_err(|error| EnrolFailure::Answer { address, error })
}

/// Certificates are judged by clocks: one that is wrong is best set now.
fn tell_clock(address: SocketAddr, theirs: u64) {
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if CLOCK_APART_MAX.as_secs() < ours.abs_diff(theirs) {
        let ahead_s = i128::from(theirs) - i128::from(ours);
        warn!(%address, %ahead_s, "the authority's clock is ahead of this machine's by this: set the one that is wrong");
    }
}

struct Joining<'a> {
    token: &'a Token,
    role: Role,
    name: &'a str,
    request: &'a CertificateRequest,
    until: Instant,
}

/// What came of one round over the addresses.
#[derive(Default)]
struct Round {
    tries: Vec<Tried>,
    /// When the first of those that were only busy can be asked again.
    again_at: Option<Instant>,
}

impl Round {
    fn again_after(&mut self, wait: Duration) {
        let at = Instant::now() + wait.max(AGAIN_AFTER_MIN);
        self.again_at = Some(self.again_at.map_or(at, |known| known.min(at)));
    }
}

impl Joining<'_> {
    /// Goes over the addresses, again when some were only too busy and there is time.
    async fn ask_all(&self) -> Result<(SocketAddr, Enrolled), EnrolFailure> {
        let mut fate = TokenFate::Usable;
        loop {
            let mut round = Round::default();
            if let Some(answered) = self.ask_round(&mut round, &mut fate).await? {
                return Ok(answered);
            }
            match round.again_at.filter(|again_at| *again_at < self.until) {
                Some(again_at) => sleep_until(again_at).await,
                None => return Err(EnrolFailure::NoAnswer { tries: round.tries, fate }),
            }
        }
    }

    async fn ask_round(
        &self,
        round: &mut Round,
        fate: &mut TokenFate,
    ) -> Result<Option<(SocketAddr, Enrolled)>, EnrolFailure> {
        for name in self.token.addresses() {
            let found = match self.resolve(name).await {
                Ok(found) => found,
                Err(error) => {
                    round.tries.push(Tried { address: name.clone(), error });
                    continue;
                }
            };
            for address in found {
                let error = match self.ask(address).await {
                    Ok(answer) => return Ok(Some((address, answer))),
                    Err(error) => error,
                };
                debug!(%address, %error, "could not join there");
                match &error {
                    TryError::Unresolved(_) | TryError::NoTimeLeft => {}
                    TryError::Late { .. } => *fate = TokenFate::MaybeUsed,
                    TryError::Join(error) => match Verdict::of(error) {
                        Verdict::Elsewhere => {}
                        Verdict::MaybeUsed => *fate = TokenFate::MaybeUsed,
                        Verdict::Again(after) => round.again_after(after),
                        Verdict::Refused(fate) => {
                            let error = error.clone();
                            return Err(EnrolFailure::Refused { address, error, fate });
                        }
                    },
                }
                round.tries.push(Tried { address: address.to_string(), error });
            }
        }
        Ok(None)
    }

    async fn resolve(&self, name: &str) -> Result<Vec<SocketAddr>, TryError> {
        let until = self.until.min(Instant::now() + RESOLVE_WITHIN);
        let mut addresses: Vec<SocketAddr> = Vec::new();
        match timeout_at(until, lookup_host(name)).await {
            Ok(Ok(found)) => {
                for address in found {
                    if !addresses.contains(&address) && addresses.len() < ADDRESSES_PER_NAME_MAX {
                        addresses.push(address);
                    }
                }
                Ok(addresses)
            }
            Ok(Err(error)) => Err(TryError::Unresolved(error.to_string())),
            Err(_) => Err(TryError::Unresolved("the name service does not answer".to_owned())),
        }
    }

    async fn ask(&self, address: SocketAddr) -> Result<Enrolled, TryError> {
        let within = TRY_WITHIN.min(self.until.saturating_duration_since(Instant::now()));
        if within.is_zero() {
            return Err(TryError::NoTimeLeft);
        }
        let answer = lineside_mesh::join(address, self.token, self.role, self.name, self.request);
        match timeout(within, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(TryError::Join(error)),
            Err(_) => Err(TryError::Late { within }),
        }
    }
}
