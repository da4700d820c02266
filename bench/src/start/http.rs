//! One request, one connection: enough to ask whether somebody is ready.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, bail};

const WITHIN: Duration = Duration::from_secs(5);

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

pub(crate) fn get(to: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    ask(to, &format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"))
}

pub(crate) fn post(to: SocketAddr, path: &str, json: &str) -> anyhow::Result<Answer> {
    let length = json.len();
    ask(
        to,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{json}"
        ),
    )
}

fn ask(to: SocketAddr, request: &str) -> anyhow::Result<Answer> {
    let mut socket = TcpStream::connect_timeout(&to, WITHIN)?;
    socket.set_read_timeout(Some(WITHIN))?;
    socket.write_all(request.as_bytes())?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else { bail!("no answer") };
    let status = head.split_whitespace().nth(1).context("no status")?.parse()?;
    Ok(Answer { status, body: body.to_owned() })
}
