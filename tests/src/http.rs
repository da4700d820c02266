//! HTTP/1.1 as a plain client speaks it: one connection, kept as long as the server keeps it.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

/// Longest wait for an answer: past every deadline that a gateway allows by default.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// One client of a gateway.
#[derive(Debug)]
pub struct Http {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
}

/// What the server said.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// The body, whole.
    pub body: Vec<u8>,
}

impl HttpAnswer {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// It is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

impl Http {
    /// A client that connects when it is used first.
    #[must_use]
    pub const fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// Asks for a path.
    ///
    /// # Errors
    /// There was no whole answer.
    pub async fn get(&mut self, path: &str) -> io::Result<HttpAnswer> {
        self.send("GET", path, &[], b"").await
    }

    /// Sends a body.
    ///
    /// # Errors
    /// As [`Http::get`].
    pub async fn post(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<HttpAnswer> {
        self.send("POST", path, headers, body).await
    }

    async fn send(
        &mut self,
        verb: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<HttpAnswer> {
        let mut head =
            format!("{verb} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n", self.address, body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let request = [head.as_bytes(), body].concat();
        timeout(ANSWER_WITHIN, self.exchange(&request))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn exchange(&mut self, request: &[u8]) -> io::Result<HttpAnswer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => BufReader::new(TcpStream::connect(self.address).await?),
        };
        connection.get_mut().set_nodelay(true)?;
        connection.get_mut().write_all(request).await?;
        let answer = read(&mut connection).await?;
        if !answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.connection = Some(connection);
        }
        Ok(answer)
    }
}

async fn read(connection: &mut BufReader<TcpStream>) -> io::Result<HttpAnswer> {
    let status = line(connection).await?;
    let invalid = |what: &str| io::Error::other(format!("{what}: {status:?}"));
    let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
    let code = code.ok_or_else(|| invalid("no status line"))?;
    let mut headers = Vec::new();
    loop {
        let header = line(connection).await?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').ok_or_else(|| invalid("no header"))?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut answer = HttpAnswer { status: code, headers, body: Vec::new() };
    let length = answer.header("content-length").and_then(|length| length.parse().ok());
    // No answer of ours is chunked: its length is always known.
    answer.body = vec![0; length.unwrap_or(0)];
    connection.read_exact(&mut answer.body).await?;
    Ok(answer)
}

async fn line(connection: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if connection.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}
