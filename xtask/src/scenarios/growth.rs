//! A log of any size: commands straight to command-api, from many connections at once.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{Http, block, spawn};
use super::dates::day;
use super::world;

/// As many as group commits can make use of.
const CALLERS: usize = 96;
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// What is changed: each stream by one caller only, so that none waits for another.
#[derive(Clone, Copy)]
pub enum Streams<'a> {
    /// Another area each time.
    Units(&'a [String]),
    /// Another charge each time.
    Ledgers(&'a [String]),
}

/// So many commands, shared out over the streams. Each appends one event to its stream.
pub fn grow(admin: &Http, port: u16, streams: Streams<'_>, commands: u64) -> Result<()> {
    let (ids, what) = match streams {
        Streams::Units(ids) => (ids, What::Area),
        Streams::Ledgers(ids) => (ids, What::Charge),
    };
    ensure!(!ids.is_empty(), "there is nothing to grow");
    let callers = CALLERS.min(ids.len());
    let token = admin.token().context("nobody is logged in")?.to_owned();
    let done = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let own: Vec<String> = ids.iter().skip(caller).step_by(callers).cloned().collect();
            let (done, token) = (done.clone(), token.clone());
            spawn(async move {
                let mut connection = Connection::open(port, token).await?;
                // Shared out as they are wanted: a caller that is slow keeps nobody waiting.
                let mut turn = 0;
                while done.fetch_add(1, Ordering::Relaxed) < commands {
                    connection.command(what, &own[turn % own.len()], turn).await?;
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

#[derive(Clone, Copy)]
enum What {
    Area,
    Charge,
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

    async fn command(&mut self, what: What, id: &str, turn: usize) -> Result<()> {
        let (method, path, body) = match what {
            // Never the one before: a command that changes nothing appends nothing.
            What::Area => ("PATCH", format!("/units/{id}"), json!({"area_m2": 20 + area_of(turn)})),
            What::Charge => {
                let body = json!({"type": "utility", "money": world::money(100 + area_of(turn)), "due_on": day(-1)});
                ("POST", format!("/ledgers/{id}/charges"), body)
            }
        };
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

fn area_of(turn: usize) -> i64 {
    (turn % 500) as i64
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
