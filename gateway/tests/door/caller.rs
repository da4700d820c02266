//! A client that writes HTTP by hand, so that it can also write it wrong.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::gate::PATIENCE;

pub(crate) struct Caller<S = TcpStream> {
    stream: S,
    unread: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(there, _)| there == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Checks that this is an error with everything that an error has, and gives its words.
    pub(crate) fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        let body = self.json();
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!(body["request_id"].as_str(), self.header("x-request-id"), "{body}");
        assert!(body["code"].is_string(), "{body}");
        body["error"].as_str().unwrap().to_owned()
    }
}

impl Caller {
    /// One whose system takes in little of an answer that is not read; by itself Linux would take 32 MiB.
    pub(crate) async fn connect_lazily(address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        Self { stream: socket.connect(address).await.unwrap(), unread: Vec::new() }
    }

    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), unread: Vec::new() }
    }

    /// The socket, for what is no HTTP/1.1.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Waits until the answer begins to come, without reading it.
    pub(crate) async fn answer_begins(&self) {
        timeout(PATIENCE, self.stream.readable()).await.expect("an answer comes").unwrap();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Caller<S> {
    /// One that speaks over a stream which is there already.
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Writes as much as the other side takes: one that has closed is no error here.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        drop(timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await.expect("the door reads"));
    }

    pub(crate) async fn get(&mut self, path: &str) -> Reply {
        self.write(format!("GET {path} HTTP/1.1\r\nHost: line\r\n\r\n")).await;
        self.reply().await
    }

    pub(crate) async fn post(&mut self, path: &str, body: impl AsRef<[u8]>) -> Reply {
        self.post_with(path, &[], body).await
    }

    pub(crate) async fn post_with(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Reply {
        self.send(path, headers, body).await;
        self.reply().await
    }

    /// Sends without waiting for the answer.
    pub(crate) async fn send(&mut self, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) {
        let body = body.as_ref();
        let mut head = format!("POST {path} HTTP/1.1\r\nHost: line\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        self.write([head.as_bytes(), b"\r\n", body].concat()).await;
    }

    /// Sends JSON with binary tensors behind it.
    pub(crate) async fn post_binary(&mut self, path: &str, json: &Value, tensors: &[&[u8]]) -> Reply {
        let json = json.to_string();
        let length = json.len().to_string();
        let body = [json.as_bytes(), &tensors.concat()].concat();
        self.post_with(path, &[("Inference-Header-Content-Length", &length)], body).await
    }

    pub(crate) async fn reply(&mut self) -> Reply {
        timeout(PATIENCE, self.read_reply()).await.expect("an answer comes")
    }

    /// The answer to a HEAD: its length is that of a body which does not come.
    pub(crate) async fn head(&mut self) -> Reply {
        timeout(PATIENCE, self.read_head()).await.expect("an answer comes")
    }

    async fn read_head(&mut self) -> Reply {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|end| end == b"\r\n\r\n") {
                break at;
            }
            assert!(self.read().await, "closed within a head: {:?}", String::from_utf8_lossy(&self.unread));
        };
        let head = String::from_utf8(self.unread.drain(..end + 4).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_ascii_lowercase(), value.to_owned())
        };
        Reply { status, headers: lines.map(header).collect(), body: Vec::new() }
    }

    async fn read_reply(&mut self) -> Reply {
        let mut reply = self.read_head().await;
        if reply.header("transfer-encoding") == Some("chunked") {
            reply.body = self.read_chunks().await;
            return reply;
        }
        let length = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.unread.len() < length {
            assert!(self.read().await, "closed within a body");
        }
        reply.body = self.unread.drain(..length).collect();
        reply
    }

    async fn read_chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = self.unread.windows(2).position(|end| end == b"\r\n") {
                    break at;
                }
                assert!(self.read().await, "closed within a chunk's head");
            };
            let digits = String::from_utf8(self.unread.drain(..end + 2).collect()).unwrap();
            let length = usize::from_str_radix(digits.trim_end(), 16).unwrap();
            while self.unread.len() < length + 2 {
                assert!(self.read().await, "closed within a chunk");
            }
            body.extend(self.unread.drain(..length));
            self.unread.drain(..2);
            if length == 0 {
                return body;
            }
        }
    }

    /// Reads what there is; false at the end.
    async fn read(&mut self) -> bool {
        let mut piece = [0; 4096];
        let read = self.stream.read(&mut piece).await.unwrap_or(0);
        self.unread.extend_from_slice(&piece[..read]);
        0 < read
    }

    /// Waits until the door has closed this connection, and gives how long that took.
    pub(crate) async fn closed(&mut self) -> Duration {
        let since = tokio::time::Instant::now();
        let closed = async { while self.read().await {} };
        timeout(PATIENCE, closed).await.expect("the connection is closed");
        assert!(self.unread.is_empty(), "{:?}", String::from_utf8_lossy(&self.unread));
        since.elapsed()
    }
}
