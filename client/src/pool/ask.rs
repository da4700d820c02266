//! Questions that any member answers: members, models, health.

use std::time::Duration;

use lineside_mesh::{CallFailure, Destination, Mesh, Outbound};
use lineside_wire::{CallContext, Fault, NodeId, decode_part};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout_at};

use super::{Pool, destination, micros};
use crate::{Outcome, Wanted, transport::Transport};

/// Longest time that one silent member may take of a question that others could answer.
const ONE_MEMBER_MAX: Duration = Duration::from_secs(2);

/// Why a question was not answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody is known who could answer.
    #[error("no member is known that could answer; is one running, and is its address right?")]
    NoMember,
    /// This member is not in the member list.
    #[error("{0} is no member that is known here; `lineside members` lists those there are")]
    UnknownMember(NodeId),
    /// Nobody answered in time.
    #[error("no answer within {within:?}")]
    Late {
        /// How long was waited.
        within: Duration,
    },
    /// The last member that was asked could not be reached, or was lost.
    #[error("{reason}")]
    Broken {
        /// Who.
        node: NodeId,
        /// What broke.
        reason: String,
    },
    /// A member refused.
    #[error("{}", fault.message)]
    Refused {
        /// Who.
        node: NodeId,
        /// What it said.
        fault: Fault,
    },
}

impl From<CallFailure> for AskError {
    fn from(failure: CallFailure) -> Self {
        let reason = failure.to_string();
        match failure {
            CallFailure::Fault { node, fault, .. } => Self::Refused { node, fault },
            CallFailure::Unreachable { node, .. }
            | CallFailure::Lost { node, .. }
            | CallFailure::Invalid { node, .. } => Self::Broken { node, reason },
        }
    }
}

impl Outcome {
    /// What the balancer learns of a member that was asked a question.
    pub(crate) const fn of_question<R>(answer: &Result<R, AskError>) -> Self {
        match answer {
            Ok(_) | Err(AskError::Refused { .. }) => Self::Heard,
            Err(AskError::Late { .. }) => Self::Late,
            Err(AskError::NoMember | AskError::UnknownMember(_) | AskError::Broken { .. }) => Self::Failed,
        }
    }
}

impl<T: Transport> Pool<T> {
    /// Asks any candidate, and the next when it cannot be reached. For calls that change nothing.
    ///
    /// # Errors
    /// Nobody answered within `within`, or somebody refused.
    pub async fn ask<P, R>(&self, method: &'static str, params: &P, within: Duration) -> Result<R, AskError>
    where
        P: Serialize + Sync,
        R: DeserializeOwned,
    {
        let start = Instant::now();
        let deadline = start + within;
        let mut tried = Vec::new();
        let mut error = AskError::NoMember;
        while Instant::now() < deadline {
            let now = Instant::now();
            let Ok(lease) = self.balancer.lease(Wanted::Anything, &tried, now.into_std()) else {
                return Err(error);
            };
            tried.push(lease.node());
            let until = deadline.min(now + ONE_MEMBER_MAX);
            let answer = self.ask_at(destination(&lease), method, params, until).await;
            self.report(lease, Outcome::of_question(&answer));
            match answer {
                Err(
                    late_or_broken @ (AskError::Late { .. }
                    | AskError::Broken { .. }
                    | AskError::NoMember
                    | AskError::UnknownMember(_)),
                ) => error = late_or_broken,
                answer => return answer,
            }
        }
        Err(AskError::Late { within })
    }

    /// Asks one member. The error of a deadline that passed tells how long was waited.
    ///
    /// # Errors
    /// It could not be reached, did not answer until `until`, or refused.
    pub async fn ask_at<P, R>(
        &self,
        to: Destination,
        method: &'static str,
        params: &P,
        until: Instant,
    ) -> Result<R, AskError>
    where
        P: Serialize + Sync,
        R: DeserializeOwned,
    {
        let within = until.saturating_duration_since(Instant::now());
        let timeout_us = Some(micros(within));
        let context = CallContext { timeout_us, ..CallContext::default() };
        let call = Outbound { context, ..Outbound::new(method, params) };
        let node = to.node;
        match timeout_at(until, self.transport.call(to, call)).await {
            Err(_) => Err(AskError::Late { within }),
            Ok(Ok(reply)) => decode_part(&reply.result)
                .map_err(|fault| AskError::Broken { node, reason: format!("{node}: {fault}") }),
            Ok(Err(failure)) => Err(failure.into()),
        }
    }
}

impl Pool<Mesh> {
    /// Sends a notification to one candidate, and to the next only when nothing could be sent.
    ///
    /// # Errors
    /// Nobody could be reached within `within`, or the notification is too long.
    pub(crate) async fn notify<P: Serialize + Sync>(
        &self,
        method: &'static str,
        params: &P,
        within: Duration,
    ) -> Result<(), AskError> {
        let deadline = Instant::now() + within;
        let mut tried = Vec::new();
        let mut error = AskError::NoMember;
        while Instant::now() < deadline {
            let now = Instant::now().into_std();
            let Ok(lease) = self.balancer.lease(Wanted::Anything, &tried, now) else { return Err(error) };
            tried.push(lease.node());
            match timeout_at(deadline, self.transport.notify(destination(&lease), method, params)).await {
                // It proves nothing about the member, so the lease is only given back.
                Ok(Ok(())) => return Ok(()),
                Ok(Err(failure @ CallFailure::Fault { .. })) => return Err(failure.into()),
                Ok(Err(failure)) => {
                    self.report(lease, Outcome::Failed);
                    error = failure.into();
                }
                Err(_) => self.report(lease, Outcome::Late),
            }
        }
        Err(AskError::Late { within })
    }
}
