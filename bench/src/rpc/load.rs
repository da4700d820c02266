//! A closed loop of callers on one single-threaded runtime.

use std::time::Duration;

use anyhow::bail;
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::{compare::Round, cpu};

/// How many call how long with what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Calls in flight.
    pub(crate) callers: usize,
    /// Bytes of a request.
    pub(crate) request: usize,
    /// Length of a round.
    pub(crate) lasting: Duration,
}

impl Load {
    /// Runs `call` in a closed loop; `server` is the process at the other end.
    pub(crate) async fn drive<F: Future<Output = anyhow::Result<()>>>(
        &self,
        server: u32,
        call: impl Fn() -> F,
    ) -> anyhow::Result<Round> {
        let pids = [std::process::id(), server];
        let (start, cpu_before) = (Instant::now(), cpu::used(&pids));
        let end = start + self.lasting;
        let caller = async || -> anyhow::Result<Histogram<u64>> {
            let mut latencies = Histogram::new_with_bounds(1, 60_000_000, 3)?;
            loop {
                let begin = Instant::now();
                if end <= begin {
                    return Ok(latencies);
                }
                call().await?;
                latencies.saturating_record(u64::try_from(begin.elapsed().as_micros())?.max(1));
            }
        };
        let ended = join_all((0..self.callers).map(|_| caller())).await;
        let (took, cpu) = (start.elapsed(), cpu::used(&pids) - cpu_before);
        let mut all = Histogram::new_with_bounds(1, 60_000_000, 3)?;
        for latencies in ended {
            all.add(latencies?)?;
        }
        if all.is_empty() {
            bail!("no call ended within {:?}", self.lasting);
        }
        Ok(Round::new(all.len(), took, cpu, all.value_at_quantile(0.5), all.value_at_quantile(0.99)))
    }
}

/// The runtime that every system gets, on both sides.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
