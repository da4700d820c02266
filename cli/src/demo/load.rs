//! The traffic: callers that send samples through both doors, and count what becomes of each request.
//!
//! A caller never tries again. What fails over is the library and the gateway, whose work this shows.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use lineside_client::Client;
use lineside_wire::{Datatype, Tensor};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    http::{self, largest},
    samples::{self, Answer, Sample},
    tally::{Door, Reply, Tally},
};
use crate::local::{Body, HttpCaller};

/// How long an answer is waited for, all failovers included.
const DEADLINE: Duration = Duration::from_secs(10);

/// What a caller rests between two requests. Six callers then leave two cores room for the models.
const PAUSE: Duration = Duration::from_millis(4);

/// The callers.
const CALLERS: [Way; 6] = [Way::HttpBinary, Way::Quic, Way::HttpJson, Way::Quic, Way::HttpBinary, Way::Quic];

/// How a caller sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// HTTP, the tensor as numbers in JSON.
    HttpJson,
    /// HTTP, the tensor as bytes behind the JSON.
    HttpBinary,
    /// QUIC, the client library.
    Quic,
}

impl Way {
    const fn door(self) -> Door {
        match self {
            Self::HttpJson | Self::HttpBinary => Door::Http,
            Self::Quic => Door::Quic,
        }
    }
}

/// Callers at work.
pub(super) struct Load {
    shared: Arc<Shared>,
    callers: JoinSet<()>,
}

struct Shared {
    samples: Vec<Sample>,
    json: Vec<Body>,
    binary: Vec<Body>,
    /// The nodes' names by their id.
    names: BTreeMap<String, String>,
    tally: Mutex<Tally>,
    enough: CancellationToken,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    /// Starts all callers, each with another first sample.
    pub(super) fn start(door: SocketAddr, client: &Client, names: &BTreeMap<String, String>) -> Self {
        let samples = samples::samples();
        let shared = Arc::new(Shared {
            json: samples.iter().map(http::json).collect(),
            binary: samples.iter().map(http::binary).collect(),
            samples,
            names: names.clone(),
            tally: Mutex::default(),
            enough: CancellationToken::new(),
        });
        let mut callers = JoinSet::new();
        for (index, way) in CALLERS.into_iter().enumerate() {
            let first = index * shared.samples.len() / CALLERS.len();
            let caller = Caller { way, http: HttpCaller::new(door), address: door, client: client.clone() };
            callers.spawn(caller.work(Arc::clone(&shared), first));
        }
        Self { shared, callers }
    }

    /// Requests answered so far.
    pub(super) fn answers(&self) -> u64 {
        self.shared.tally().answers()
    }

    /// Requests lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.shared.tally().lost
    }

    /// Answers of a node so far.
    pub(super) fn answers_of(&self, node: &str) -> u64 {
        self.shared.tally().nodes.get(node).copied().unwrap_or_default()
    }

    /// Ends the traffic when every request that was sent has its end: at most a deadline from now.
    pub(super) async fn finish(mut self) -> Tally {
        self.shared.enough.cancel();
        while let Some(ended) = self.callers.join_next().await {
            ended.expect("a caller does not panic");
        }
        self.shared.tally().clone()
    }
}

struct Caller {
    way: Way,
    http: HttpCaller,
    address: SocketAddr,
    client: Client,
}

impl Caller {
    async fn work(mut self, shared: Arc<Shared>, first: usize) {
        for index in (0..shared.samples.len()).cycle().skip(first) {
            if shared.enough.is_cancelled() {
                return;
            }
            let sample = &shared.samples[index];
            let start = Instant::now();
            let result = timeout(DEADLINE, self.send(&shared, index)).await;
            let latency = start.elapsed();
            match result.context("no answer within the deadline").flatten() {
                Ok(mut reply) => {
                    reply.node = shared.names.get(&reply.node).cloned().unwrap_or(reply.node);
                    shared.tally().answered(self.way.door(), sample, &reply, latency);
                }
                Err(error) => {
                    shared.tally().lost(self.way.door(), sample, &format!("{error:#}"));
                    // The connection may hold an answer that nobody waits for: the next request has a new one.
                    self.http = HttpCaller::new(self.address);
                }
            }
            sleep(PAUSE).await;
        }
    }

    async fn send(&mut self, shared: &Shared, index: usize) -> anyhow::Result<Reply> {
        let sample = &shared.samples[index];
        match self.way {
            Way::HttpJson => http::infer(&mut self.http, sample, &shared.json[index], DEADLINE).await,
            Way::HttpBinary => http::infer(&mut self.http, sample, &shared.binary[index], DEADLINE).await,
            Way::Quic => self.infer(sample).await,
        }
    }

    async fn infer(&self, sample: &Sample) -> anyhow::Result<Reply> {
        let shape = sample.shape.clone();
        let input = Tensor::new(sample.input, Datatype::Fp32, shape, sample.bytes.clone())?;
        let request = self.client.infer(sample.model).tensor(input).output(sample.output).deadline(DEADLINE);
        let answered = request.send().await?;
        let output = answered.output(sample.output)?;
        let answer = match sample.expected {
            Answer::Class(_) => largest(&output.to_vec::<f32>()?).map(Answer::Class),
            Answer::Anomalous(_) => output.to_vec::<bool>()?.first().copied().map(Answer::Anomalous),
        };
        let Some(answer) = answer else { bail!("{} is empty", sample.output) };
        Ok(Reply { answer, node: answered.node.to_string(), attempts: answered.attempts.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_doors_and_both_encodings_are_used_by_several_callers() {
        let by = |door| CALLERS.iter().filter(|way| way.door() == door).count();
        assert!(2 <= by(Door::Http) && 2 <= by(Door::Quic));
        assert!(CALLERS.contains(&Way::HttpJson) && CALLERS.contains(&Way::HttpBinary));
    }
}
