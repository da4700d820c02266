//! The floor: bare UDP, one blocking thread on each side, no encryption, one datagram per request and answer.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use super::{Caller, load::Load};
use crate::{
    children::{Process, announce, end_with_stdin},
    compare::Round,
    cpu,
};

/// Longest wait for a datagram; on loopback only a full buffer loses one.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

pub(crate) fn serve(answer: usize) -> anyhow::Result<()> {
    end_with_stdin();
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    announce(socket.local_addr()?);
    let (mut request, answer) = (vec![0; 2048], vec![7; answer]);
    loop {
        let (_, from) = socket.recv_from(&mut request)?;
        socket.send_to(&answer, from)?;
    }
}

pub(crate) struct Calls {
    server: Process,
}

impl Calls {
    pub(crate) const fn connect(server: Process) -> Self {
        Self { server }
    }
}

impl Caller for Calls {
    /// One socket, `callers` datagrams in flight.
    fn run(&mut self, load: &Load) -> anyhow::Result<Round> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(self.server.address)?;
        socket.set_read_timeout(Some(ANSWER_WITHIN))?;
        let pids = [std::process::id(), self.server.pid()];
        #[expect(clippy::disallowed_methods, reason = "a blocking loop without a runtime")]
        let (start, cpu_before) = (Instant::now(), cpu::used(&pids));
        let (request, mut answer, mut answered) = (vec![3; load.request], vec![0; 2048], 0_u64);
        for _ in 0..load.callers {
            socket.send(&request)?;
        }
        while start.elapsed() < load.lasting {
            socket.recv(&mut answer)?;
            answered += 1;
            socket.send(&request)?;
        }
        for _ in 0..load.callers {
            socket.recv(&mut answer)?;
            answered += 1;
        }
        let took = start.elapsed();
        let cpu = cpu::used(&pids).saturating_sub(cpu_before);
        let each = u64::try_from(took.as_micros())? * load.callers as u64 / answered.max(1);
        Ok(Round::new(answered, took, cpu, each, each))
    }
}
