//! One keep-alive connection of a client, and a writer at a steady pace over several.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A request that takes longer has failed.
const REQUEST_MAX: Duration = Duration::from_secs(20);

pub struct Wire {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// # Errors
    /// When the status is another one.
    pub fn expect(self, status: u16) -> Result<Self> {
        ensure!(self.status == status, "{} instead of {status}: {}", self.status, String::from_utf8_lossy(&self.body));
        Ok(self)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Wire {
    /// # Errors
    /// When nobody listens on that loopback port.
    pub async fn to(port: u16) -> Result<Self> {
        let host = format!("127.0.0.1:{port}");
        let stream = TcpStream::connect(&host).await.with_context(|| format!("connecting to {host}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, host })
    }

    /// # Errors
    /// When the connection fails.
    pub async fn get(&mut self, path: &str, token: Option<&str>) -> Result<Answer> {
        self.ask(Method::GET, path, token, &[], None).await
    }

    /// # Errors
    /// When the connection fails.
    pub async fn post(&mut self, path: &str, token: Option<&str>, body: &Value) -> Result<Answer> {
        self.ask(Method::POST, path, token, &[], Some(body)).await
    }

    /// # Errors
    /// When the connection fails or the answer takes too long.
    pub async fn ask(
        &mut self,
        method: Method,
        path: &str,
        token: Option<&str>,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let answered = async {
            self.sender.ready().await?;
            let answer = self.sender.send_request(request.body(Full::new(body))?).await?;
            let (head, body) = answer.into_parts();
            anyhow::Ok(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body: body.collect().await?.to_bytes(),
            })
        };
        tokio::time::timeout(REQUEST_MAX, answered).await.with_context(|| format!("{path} took too long"))?
    }
}

/// Commands at a steady pace, until it is stopped: each changes the area of the next of these units. A late command does not
/// delay the others' times, so that the pace holds as long as the product keeps up.
pub struct Writer {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    started: Instant,
    pace: u64,
    lanes: Vec<JoinHandle<Result<()>>>,
}

static AREAS: AtomicU64 = AtomicU64::new(0);

/// Lanes of a writer; at 500 commands/s each has 32 ms for a command.
const LANES: u64 = 16;

impl Writer {
    /// Needs a runtime.
    pub fn start(port: u16, token: &str, units: &[String], pace: u64) -> Self {
        let (stop, done, started) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Instant::now());
        let lanes = (0..LANES).map(|lane| {
            let (stop, done, token) = (stop.clone(), done.clone(), token.to_owned());
            // A unit belongs to one lane, so that no command waits for another's turn on its stream.
            let own: Vec<String> = units.iter().skip(lane as usize).step_by(LANES as usize).cloned().collect();
            tokio::spawn(async move {
                let mut wire = Wire::to(port).await?;
                let period = Duration::from_micros(1_000_000 * LANES / pace);
                let mut next = tokio::time::Instant::from_std(started) + period * lane as u32 / LANES as u32;
                for turn in 0_usize.. {
                    tokio::time::sleep_until(next).await;
                    if stop.load(Ordering::Relaxed) || own.is_empty() {
                        break;
                    }
                    next += period;
                    let unit = &own[turn % own.len()];
                    // Never the area that the unit has: that would change nothing.
                    let area = 300 + AREAS.fetch_add(1, Ordering::Relaxed) % 9_000;
                    let path = format!("/units/{unit}");
                    let body = json!({"area_m2": area});
                    wire.ask(Method::PATCH, &path, Some(&token), &[], Some(&body)).await?.expect(200)?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        let lanes = lanes.collect();
        Self { stop, done, started, pace, lanes }
    }

    /// Commands a second that were acknowledged, and what went wrong with the pace or a command.
    pub async fn stop(self) -> (f64, Vec<String>) {
        let elapsed = self.started.elapsed().as_secs_f64();
        let rate = self.done.load(Ordering::Relaxed) as f64 / elapsed;
        self.stop.store(true, Ordering::Relaxed);
        let mut wrong = Vec::new();
        for lane in self.lanes {
            match lane.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => wrong.push(format!("a command failed: {error:#}")),
                Err(error) => wrong.push(format!("a writer ended: {error}")),
            }
        }
        if rate < self.pace as f64 * 0.95 {
            wrong.push(format!("{rate:.0} commands/s were done where {} were meant", self.pace));
        }
        (rate, wrong)
    }
}
