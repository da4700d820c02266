//! Calls on their way: from a pool through a connection to a node, and back.

use std::time::Duration;

use bytes::Bytes;
use lineside_mesh::{CallFailure, DialError, Reply};
use lineside_wire::{Executed, Fault, FaultCode, RunReport};
use tokio::time::Instant;

use super::{
    super::{
        ledger::{Run, Try, TryEnd},
        node::{End, Job, Manner},
        plan::Defect,
        port::{Answer, Post},
        wires::{Body, CONNECT, Conn, IDLE, KEEP_ALIVE, Load, Message, Packet},
    },
    Call, Happening, World, node, number,
};

/// Between two looks at a connection.
const TICK: Duration = Duration::from_millis(250);
/// Datagrams that wait for a process that stands still.
const HELD_MAX: usize = 256;

impl World {
    pub(super) fn posted(&mut self, post: Post) {
        match post {
            Post::Call { gateway, call, to, context, reply } => {
                let request: usize =
                    context.idempotency_key.as_deref().and_then(|key| key.parse().ok()).expect("our own key");
                let to = number(to);
                let record = &mut self.records[request];
                record.tries.push(Try { node: to, at: self.now, end: None });
                let (place, repeats) = (record.tries.len() - 1, record.repeats());
                let costs = record.paid < repeats;
                record.paid = record.paid.max(repeats);
                let left = Duration::from_micros(context.timeout_us.unwrap_or(0));
                self.note(|| format!("call {call} of request {request}: {gateway} to {to}, try {place}"));
                if costs && let Some(gateway) = self.gateways.get_mut(&gateway) {
                    gateway.repeats.push(self.now);
                }
                let expires = self.now + left;
                let reply = Some(reply);
                let entry = Call { gateway, node: to, request, place, expires, conn: 0, sent: false, reply };
                self.calls.insert(call, entry);
                self.note_crowd(to);
                self.connect(gateway, to, call);
            }
            Post::Cancel { call } => {
                let Some(entry) = self.calls.remove(&call) else { return };
                self.note(|| format!("call {call} of request {} is cancelled", entry.request));
                let end = if entry.sent { TryEnd::Cancelled } else { TryEnd::Nothing };
                self.records[entry.request].tries[entry.place].end.get_or_insert(end);
                if entry.sent {
                    self.send(entry.conn, entry.gateway, entry.node, Body::Cancel(call));
                }
            }
        }
    }

    /// A node is full when what is on its way to it fills it; gateways know of each other's calls by hearsay, so three
    /// quarters are as good as all.
    fn note_crowd(&mut self, n: u8) {
        let count = self.calls.values().filter(|call| call.node == n).count();
        if let Some(node) = self.nodes.get_mut(&n)
            && 3 * (node.slots + node.queue_max) <= 4 * count
        {
            node.full_at = Some(self.now);
        }
    }

    /// Finds the connection for a call, or begins one.
    fn connect(&mut self, gateway: u8, to: u8, call: u64) {
        let pair = (gateway, to);
        if let Some(conn) = self.wires.conns.get_mut(&pair) {
            let (id, up) = (conn.id, conn.up);
            if up {
                return self.send_request(id, call);
            }
            return conn.waiting.push(call);
        }
        if let Some(retry_in) = self.wires.rests.get(&pair).and_then(|rest| rest.left(self.now)) {
            let error = DialError::Resting { address: ([10, 0, 0, to], 7443).into(), retry_in };
            return self.reply(call, Err(CallFailure::Unreachable { node: node(to), error }));
        }
        let (id, now) = (self.wires.next_number(), self.now);
        let conn = Conn { id, up: false, since: now, heard: now, sent_since: None, waiting: vec![call] };
        self.wires.conns.insert(pair, conn);
        self.set(now + CONNECT, Happening::DialEnds { gateway, node: to, conn: id });
        self.set(now + TICK / 5, Happening::Tick { gateway, node: to, conn: id });
        self.fly(Packet { conn: id, from: gateway, to, load: Load::Hello });
    }

    fn send_request(&mut self, conn: u64, call: u64) {
        let Some(entry) = self.calls.get_mut(&call) else { return };
        (entry.conn, entry.sent) = (conn, true);
        self.told.insert(call, (entry.request, entry.expires, entry.gateway));
        let (gateway, to) = (entry.gateway, entry.node);
        self.send(conn, gateway, to, Body::Request(call));
    }

    /// Sends what must arrive.
    fn send(&mut self, conn: u64, from: u8, to: u8, body: Body) {
        let number = self.wires.next_number();
        let message = Message { conn, from, to, body, delivered: false, sends: 0 };
        self.wires.messages.insert(number, message);
        self.resend(number);
    }

    pub(super) fn resend(&mut self, number: u64) {
        let Some(message) = self.wires.messages.get(&number) else { return };
        let (conn, from, to) = (message.conn, message.from, message.to);
        let stands = match self.nodes.get(&from) {
            Some(node) => node.up && node.conns.contains_key(&conn),
            None => self.wires.conns.get(&(from, to)).is_some_and(|known| known.id == conn),
        };
        if !stands {
            self.wires.messages.remove(&number);
            return;
        }
        let is_still = self.nodes.get(&from).is_some_and(|node| node.paused);
        if !is_still {
            self.fly(Packet { conn, from, to, load: Load::Message(number) });
        }
        let Some(message) = self.wires.messages.get_mut(&number) else { return };
        message.sends += 1;
        let again = self.now + message.patience();
        self.set(again, Happening::Resend(number));
    }

    fn fly(&mut self, packet: Packet) {
        if !self.nodes.contains_key(&packet.from) {
            let conn = self.wires.conns.get_mut(&(packet.from, packet.to));
            if let Some(conn) = conn.filter(|conn| conn.id == packet.conn) {
                conn.sent_since.get_or_insert(self.now);
            }
        }
        let times = self.sky.borrow_mut().fly(packet.from, packet.to);
        for time in times {
            self.set(self.now + time, Happening::Arrives(packet));
        }
    }

    pub(super) fn arrives(&mut self, packet: Packet) {
        if self.nodes.contains_key(&packet.to) {
            self.arrives_at_node(packet);
        } else if self.gateways.contains_key(&packet.to) {
            self.arrives_at_gateway(packet);
        }
    }

    fn arrives_at_node(&mut self, packet: Packet) {
        let Packet { conn, from: gateway, to: n, load } = packet;
        let now = self.now;
        let Some(process) = self.nodes.get_mut(&n).filter(|node| node.up) else { return };
        let back = |load| Packet { conn, from: n, to: gateway, load };
        let known = process.conns.get_mut(&conn);
        match (known, load) {
            (None, Load::Hello) => drop(process.conns.insert(conn, (gateway, now))),
            (None, Load::Reset) => return,
            (None, _) => return self.fly(back(Load::Reset)),
            (Some(known), _) => known.1 = now,
        }
        match load {
            Load::Hello => self.fly(back(Load::Welcome)),
            Load::Ping => self.fly(back(Load::Pong)),
            Load::Acknowledged(number) => drop(self.wires.messages.remove(&number)),
            Load::Message(number) => {
                self.fly(back(Load::Acknowledged(number)));
                self.delivered_at_node(n, number);
            }
            Load::Welcome | Load::Pong | Load::Reset => {}
        }
    }

    fn delivered_at_node(&mut self, n: u8, number: u64) {
        let twice = self.plan.defect == Some(Defect::RunsTwice);
        let Some(message) = self.wires.messages.get_mut(&number) else { return };
        if std::mem::replace(&mut message.delivered, true) && !twice {
            return;
        }
        let (conn, body) = (message.conn, message.body.clone());
        match body {
            Body::Request(call) => self.accept(n, conn, call),
            Body::Cancel(call) => {
                if let Some(process) = self.nodes.get_mut(&n) {
                    process.drop_calls(|job| job.call == call);
                }
                self.begin_runs(n);
            }
            Body::Answer(..) => {}
        }
    }

    fn accept(&mut self, n: u8, conn: u64, call: u64) {
        // One that was cancelled on its way arrives all the same, and the cancellation after it.
        let Some((request, expires, gateway)) = self.told.get(&call).copied() else { return };
        let record = &self.records[request];
        let (session, begins) =
            record.session.clone().map_or((None, false), |(name, begins)| (Some(name), begins));
        let value = record.value;
        let job = Job { call, request, conn, session, begins, value };
        if self.plan.defect == Some(Defect::AnswersWithoutRun) && value % 7 == 0 {
            return self.answer(n, conn, gateway, call, End::Sum(record.expected));
        }
        let Some(process) = self.nodes.get_mut(&n) else { return };
        let life = process.life;
        match process.accept(job, self.now) {
            Some(end) => self.answer(n, conn, gateway, call, end),
            None => {
                self.set(expires, Happening::Expires { node: n, life, call });
                self.begin_runs(n);
            }
        }
    }

    /// Has the free slots of a node take what waits.
    pub(super) fn begin_runs(&mut self, n: u8) {
        let now = self.now;
        while let Some(process) = self.nodes.get_mut(&n).filter(|node| node.up && !node.paused)
            && let Some((job, time)) = process.begin()
        {
            let life = process.life;
            self.records[job.request].runs.push(Run { node: n, life, at: now });
            self.note(|| format!("node {n} runs request {}", job.request));
            if let Some(time) = time {
                self.set(now + time, Happening::RunEnds { node: n, life, call: job.call });
            }
        }
    }

    pub(super) fn run_ends(&mut self, n: u8, life: u32, call: u64) {
        let Some(process) = self.nodes.get_mut(&n).filter(|node| node.up && node.life == life) else {
            return;
        };
        if process.manner == Manner::Hangs {
            return;
        }
        if let Some((job, end)) = process.end(call) {
            self.job_ends(n, &job, end);
        }
        self.begin_runs(n);
    }

    pub(super) fn expires(&mut self, n: u8, life: u32, call: u64) {
        let Some(process) = self.nodes.get_mut(&n).filter(|node| node.up && node.life == life) else {
            return;
        };
        if let Some((job, end)) = process.expire(call) {
            self.job_ends(n, &job, end);
        }
        self.begin_runs(n);
    }

    fn job_ends(&mut self, n: u8, job: &Job, end: End) {
        let Some((gateway, _)) = self.nodes.get(&n).and_then(|node| node.conns.get(&job.conn)).copied()
        else {
            return;
        };
        let end = match (end, self.plan.defect) {
            (End::Sum(sum), Some(Defect::AnswersWrong)) if job.value % 7 == 0 => End::Sum(sum + 1),
            (End::Sum(_), Some(Defect::DeniesRuns)) if job.session.is_some() => {
                End::Fault(Fault::new(FaultCode::DeadlineExceeded, "it says"))
            }
            (end, _) => end,
        };
        self.answer(n, job.conn, gateway, job.call, end);
    }

    fn answer(&mut self, n: u8, conn: u64, gateway: u8, call: u64, end: End) {
        self.send(conn, n, gateway, Body::Answer(call, end));
    }

    fn arrives_at_gateway(&mut self, packet: Packet) {
        let Packet { conn, from: n, to: gateway, load } = packet;
        let now = self.now;
        let Some(known) = self.wires.conns.get_mut(&(gateway, n)).filter(|known| known.id == conn) else {
            return;
        };
        if load == Load::Reset {
            return self.lose(gateway, n, "reset by peer");
        }
        (known.heard, known.sent_since) = (now, None);
        let welcome = load == Load::Welcome && !known.up;
        if welcome {
            known.up = true;
            let waiting = std::mem::take(&mut known.waiting);
            self.wires.rests.remove(&(gateway, n));
            self.mailbox.count(gateway, node(n));
            waiting.into_iter().for_each(|call| self.send_request(conn, call));
            return;
        }
        self.mailbox.count(gateway, node(n));
        match load {
            Load::Acknowledged(number) => drop(self.wires.messages.remove(&number)),
            Load::Message(number) => {
                self.fly(Packet { conn, from: gateway, to: n, load: Load::Acknowledged(number) });
                let Some(message) = self.wires.messages.get_mut(&number) else { return };
                if !std::mem::replace(&mut message.delivered, true)
                    && let Body::Answer(call, end) = message.body.clone()
                {
                    self.reply_of_node(n, call, end);
                }
            }
            Load::Welcome | Load::Pong | Load::Reset | Load::Hello | Load::Ping => {}
        }
    }

    fn reply_of_node(&mut self, n: u8, call: u64, end: End) {
        let load = self.nodes[&n].load();
        let report = RunReport { node: node(n), load, queue_us: 0, run_us: 0, attempts: 1, batch: 1 };
        let answer = match end {
            End::Sum(sum) => {
                let payload = Bytes::copy_from_slice(&sum.to_le_bytes());
                Ok(Reply { result: nothing_but_the_name(), payload, report: Some(report) })
            }
            End::Fault(fault) => Err(CallFailure::Fault { node: node(n), fault, report: Some(report) }),
        };
        self.reply(call, answer);
    }

    /// Gives a pool the answer of a try.
    fn reply(&mut self, call: u64, answer: Answer) {
        let Some(mut entry) = self.calls.remove(&call) else { return };
        let (end, is_failure) = match &answer {
            Ok(_) => (TryEnd::Answered, false),
            Err(CallFailure::Unreachable { .. } | CallFailure::Lost { sent: false, .. }) => {
                (TryEnd::Nothing, true)
            }
            Err(CallFailure::Fault { fault, .. }) if fault.executed == Executed::No => {
                (TryEnd::Nothing, false)
            }
            Err(CallFailure::Fault { .. }) => (TryEnd::Maybe, true),
            Err(CallFailure::Lost { .. } | CallFailure::Invalid { .. }) => (TryEnd::Maybe, true),
        };
        self.note(|| {
            let how = answer.as_ref().map_or_else(ToString::to_string, |_| "answered".to_owned());
            format!("call {call} of request {}: {how}", entry.request)
        });
        self.records[entry.request].tries[entry.place].end.get_or_insert(end);
        if let Some(gateway) = self.gateways.get_mut(&entry.gateway) {
            let list = if is_failure { &mut gateway.failed } else { &mut gateway.answered };
            if is_failure || end == TryEnd::Answered {
                list.insert(entry.node, self.now);
            }
        }
        if let Some(reply) = entry.reply.take() {
            let _ = reply.send(answer);
        }
    }

    /// Looks after a connection: says that it lives, and notices when it does not.
    pub(super) fn tick(&mut self, gateway: u8, n: u8, conn: u64) {
        let now = self.now;
        let Some(known) = self.wires.conns.get(&(gateway, n)).filter(|known| known.id == conn) else {
            return;
        };
        let load = if known.up { Load::Ping } else { Load::Hello };
        let (is_idle, is_due) = (known.is_idle(now), !known.up || known.heard + KEEP_ALIVE <= now + TICK);
        if is_idle {
            return self.lose(gateway, n, "timed out");
        }
        if is_due {
            self.fly(Packet { conn, from: gateway, to: n, load });
        }
        let every = if load == Load::Hello { TICK / 5 } else { TICK };
        self.set(now + every, Happening::Tick { gateway, node: n, conn });
    }

    pub(super) fn dial_ends(&mut self, gateway: u8, n: u8, conn: u64) {
        let pair = (gateway, n);
        let Some(known) = self.wires.conns.get(&pair).filter(|known| known.id == conn && !known.up) else {
            return;
        };
        debug_assert!(known.since + CONNECT <= self.now);
        let Some(known) = self.wires.conns.remove(&pair) else { return };
        self.wires.rests.entry(pair).or_default().failed(self.now);
        for call in known.waiting {
            let error = DialError::Timeout { address: ([10, 0, 0, n], 7443).into(), within: CONNECT };
            self.reply(call, Err(CallFailure::Unreachable { node: node(n), error }));
        }
    }

    /// A connection is gone.
    pub(super) fn lose(&mut self, gateway: u8, n: u8, reason: &str) {
        let Some(known) = self.wires.conns.remove(&(gateway, n)) else { return };
        self.note(|| format!("the connection {gateway} to {n} is lost: {reason}"));
        self.mailbox.forget(gateway, node(n));
        let of_conn = |call: &Call| (call.gateway, call.node) == (gateway, n);
        let lost: Vec<(u64, bool)> =
            self.calls.iter().filter(|(_, call)| of_conn(call)).map(|(id, call)| (*id, call.sent)).collect();
        for (call, sent) in lost {
            let failure = CallFailure::Lost { node: node(n), sent, reason: reason.to_owned() };
            self.reply(call, Err(failure));
        }
        self.wires.messages.retain(|_, message| message.conn != known.id);
    }

    /// What came for a process that stood still.
    pub(super) fn release(&mut self, n: u8) {
        let held = self.held.remove(&n).unwrap_or_default();
        let mut packets = 0;
        for happening in held {
            if matches!(happening, Happening::Arrives(_)) {
                packets += 1;
                if HELD_MAX < packets {
                    continue;
                }
            }
            self.happens(happening);
        }
        self.begin_runs(n);
    }

    /// Nodes drop what nobody can hear any more.
    pub(super) fn drop_silent(&mut self) {
        let now: Instant = self.now;
        for process in self.nodes.values_mut().filter(|node| node.up && !node.paused) {
            process.drop_silent(now, IDLE);
        }
        let nodes: Vec<u8> = self.nodes.keys().copied().collect();
        nodes.into_iter().for_each(|n| self.begin_runs(n));
    }
}

/// `{"model": "add", "version": "1", "outputs": []}` in MessagePack: the number is in the payload.
fn nothing_but_the_name() -> Bytes {
    let mut result = vec![0x83];
    for text in ["model", "add", "version", "1", "outputs"] {
        result.push(0xa0 | u8::try_from(text.len()).expect("a short word"));
        result.extend_from_slice(text.as_bytes());
    }
    result.push(0x90);
    result.into()
}
