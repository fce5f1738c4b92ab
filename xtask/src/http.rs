//! One plain HTTP/1.1 request over a fresh connection: enough for readiness, and free of dependencies.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

/// The most that is read of an answer.
const ANSWER_MAX_BYTES: u64 = 4 * 1024 * 1024;

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Name and value as sent, in order.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// GET from a loopback port.
///
/// # Errors
/// When the connection or the answer fails.
pub fn get(port: u16, path: &str) -> Result<Answer> {
    request(port, &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"))
}

/// The sum of the series in a role's metrics that begin so: a name, or a name with its first labels.
///
/// # Errors
/// When the metrics cannot be read.
pub fn metric(port: u16, begin: &str) -> Result<f64> {
    let text = get(port, "/metrics")?.body;
    let series = text.lines().filter(|line| line.starts_with(begin));
    Ok(series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}

/// Sends these bytes as they are to a loopback port and reads the answer until the server closes.
///
/// # Errors
/// When the connection or the answer fails, or the answer is not HTTP.
pub fn request(port: u16, raw: &str) -> Result<Answer> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    // A server that refuses a body early may close before all of it is written: what it answered still counts.
    let written = stream.write_all(raw.as_bytes());
    let mut bytes = Vec::new();
    let read = stream.take(ANSWER_MAX_BYTES).read_to_end(&mut bytes);
    if bytes.is_empty() {
        written?;
        read?;
    }
    parse(&String::from_utf8_lossy(&bytes))
}

fn parse(text: &str) -> Result<Answer> {
    let (head, body) = text.split_once("\r\n\r\n").context("the answer has no end of headers")?;
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .context("the answer has no status")?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    Ok(Answer { status, headers, body: body.to_owned() })
}
