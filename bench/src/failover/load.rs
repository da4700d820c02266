//! Callers that keep asking at a steady pace, and what each call took and met.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::{gateway::body::Body, member::now};

/// Longest wait of a caller: longer than any deadline of a door here.
const WITHIN: Duration = Duration::from_secs(15);

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) began: Instant,
    pub(crate) took: Duration,
    /// Its status, or that it got no answer.
    pub(crate) status: Option<u16>,
    /// Whether more than one server was tried for it.
    pub(crate) moved: bool,
    /// Who answered, as the door tells it.
    pub(crate) by: String,
}

/// Callers that run until they are ended.
pub(crate) struct Load {
    ended: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Vec<Call>>>,
}

impl Load {
    /// So many callers, each of which begins a call every `pace`, or when the one before has ended.
    pub(crate) fn start(door: SocketAddr, body: &Body, callers: usize, pace: Duration) -> Self {
        let ended = Arc::<AtomicBool>::default();
        let request = Arc::<[u8]>::from(request(body));
        let callers = (0..callers).map(|number| {
            let (ended, request) = (Arc::clone(&ended), Arc::clone(&request));
            // Spread over the pace, so that they do not come as one.
            let first = now() + pace.mul_f64(number as f64 / callers as f64);
            std::thread::spawn(move || call_until(door, &request, first, pace, &ended))
        });
        Self { callers: callers.collect(), ended }
    }

    /// Ends them; gives all calls by when they began.
    pub(crate) fn end(self) -> Vec<Call> {
        self.ended.store(true, Ordering::Relaxed);
        let mut calls: Vec<_> =
            self.callers.into_iter().flat_map(|caller| caller.join().unwrap_or_default()).collect();
        calls.sort_by_key(|call| call.began);
        calls
    }
}

fn request(body: &Body) -> Vec<u8> {
    let mut head =
        format!("POST {} HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n", body.path, body.bytes.len());
    for (name, value) in body.headers() {
        head += &format!("{name}: {value}\r\n");
    }
    [head.as_bytes(), b"\r\n", &body.bytes].concat()
}

fn call_until(
    door: SocketAddr,
    request: &[u8],
    first: Instant,
    pace: Duration,
    ended: &AtomicBool,
) -> Vec<Call> {
    let mut connection = None;
    let (mut calls, mut next) = (Vec::new(), first);
    while !ended.load(Ordering::Relaxed) {
        std::thread::sleep(next.saturating_duration_since(now()));
        let began = now();
        let answer = ask(&mut connection, door, request);
        let took = began.elapsed();
        if answer.is_err() {
            connection = None;
        }
        let (status, moved, by) =
            answer.map_or((None, false, String::new()), |(status, moved, by)| (Some(status), moved, by));
        calls.push(Call { began, took, status, moved, by });
        next = (next + pace).max(now());
    }
    calls
}

/// One call on the connection that is kept, or on a new one.
fn ask(
    connection: &mut Option<BufReader<TcpStream>>,
    door: SocketAddr,
    request: &[u8],
) -> anyhow::Result<(u16, bool, String)> {
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let socket = TcpStream::connect_timeout(&door, WITHIN)?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(WITHIN))?;
            connection.insert(BufReader::new(socket))
        }
    };
    stream.get_mut().write_all(request)?;
    let (mut line, mut status, mut length, mut moved, mut by) =
        (String::new(), None, 0, false, String::new());
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            bail!("closed before the answer");
        }
        let text = line.trim_end();
        match (status, text.split_once(": ")) {
            (None, _) => status = Some(text.split_whitespace().nth(1).context("no status")?.parse()?),
            (Some(_), None) => break,
            (Some(_), Some((name, value))) => match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse()?,
                "x-lineside-attempts" => moved = value != "1",
                // As many addresses as servers were tried.
                "x-upstream" => {
                    (moved, by) =
                        (value.contains(','), value.rsplit(", ").next().unwrap_or(value).to_owned());
                }
                "x-lineside-node" => by = value.to_owned(),
                _ => {}
            },
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((status.context("no status")?, moved, by))
}
