//! A log of any size: commands straight to command-api, from many connections at once.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{Http, block, spawn};
use super::dates::day;

/// As many as group commits can make use of.
const CALLERS: usize = 96;
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// What is changed, by one caller only, so that none waits for another.
#[derive(Clone)]
pub enum Stream {
    /// Another area each time.
    Unit(String),
    /// Another charge each time.
    Ledger { lease: String, currency: String },
}

impl Stream {
    /// Method, path and body of a command. It is never the one before: what changes nothing appends nothing.
    fn command(&self, turn: usize) -> (&'static str, String, Value) {
        let number = 20 + turn % 500;
        match self {
            Self::Unit(unit) => ("PATCH", format!("/units/{unit}"), json!({"area_m2": number})),
            Self::Ledger { lease, currency } => {
                let money = json!({"amount": number, "currency": currency});
                let body = json!({"type": "utility", "money": money, "due_on": day(-1)});
                ("POST", format!("/ledgers/{lease}/charges"), body)
            }
        }
    }
}

/// So many commands, shared out over the streams. Each appends one event at least.
pub fn grow(admin: &Http, port: u16, streams: &[Stream], commands: u64) -> Result<()> {
    ensure!(!streams.is_empty(), "there is nothing to grow");
    let callers = CALLERS.min(streams.len());
    let token = admin.token().context("nobody is logged in")?.to_owned();
    let done = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let own: Vec<Stream> = streams.iter().skip(caller).step_by(callers).cloned().collect();
            let (done, token) = (done.clone(), token.clone());
            spawn(async move {
                let mut connection = Connection::open(port, token).await?;
                let mut turn = 0;
                // Taken as they are wanted: a caller that is slow keeps nobody waiting.
                while done.fetch_add(1, Ordering::Relaxed) < commands {
                    connection.command(&own[turn % own.len()], turn / own.len()).await?;
                    turn += 1;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for task in tasks {
        block(task)??;
    }
    Ok(())
}

/// HTTP/1.1, one request at a time. The scenarios' own client costs more than the command that it would send here.
struct Connection {
    stream: TcpStream,
    port: u16,
    token: String,
    read: Vec<u8>,
}

impl Connection {
    async fn open(port: u16, token: String) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, port, token, read: Vec::new() })
    }

    async fn command(&mut self, stream: &Stream, turn: usize) -> Result<()> {
        let (method, path, body) = stream.command(turn);
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.port,
            self.token,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await?;
        let answer = self.answer().await?;
        ensure!(answer.starts_with("HTTP/1.1 20"), "{method} {path} {body}: {answer}");
        Ok(())
    }

    /// Head and body of the one answer that is due.
    async fn answer(&mut self) -> Result<String> {
        self.read.clear();
        let mut end: Option<Range<usize>> = None;
        loop {
            if let Some(body) = &end
                && self.read.len() >= body.end
            {
                return Ok(String::from_utf8_lossy(&self.read).into_owned());
            }
            ensure!(self.read.len() < ANSWER_MAX_BYTES, "an endless answer");
            ensure!(self.stream.read_buf(&mut self.read).await? > 0, "the connection was closed");
            if end.is_none() {
                end = body_of(&self.read)?;
            }
        }
    }
}

/// Where the body is, once the head is complete.
fn body_of(read: &[u8]) -> Result<Option<Range<usize>>> {
    let Some(at) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&read[..at]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).context("an answer of no length")?;
    let length: usize = length.trim().parse()?;
    Ok(Some(at + 4..at + 4 + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_its_length_says() {
        assert_eq!(body_of(b"HTTP/1.1 200 OK\r\nContent-Le").expect("no fault"), None);
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(body_of(whole).expect("no fault"), Some(whole.len() - 2..whole.len()));
        assert!(body_of(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "no length");
    }
}
