//! A client of HTTP/1.1: one connection, one request at a time, whole answers.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::drive::{Ack, Caller};
use crate::workload::{Circle, assignment_body, registration_body};

/// One connection to a loopback port, kept alive.
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

impl Client {
    /// # Errors
    /// When nobody answers there.
    pub async fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.with_context(|| format!("connecting to port {port}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the sender, or by the other side's will: then the next request fails and says so.
        tokio::spawn(connection);
        Ok(Self { sender, host: format!("127.0.0.1:{port}") })
    }

    /// # Errors
    /// When the connection fails; any status is an answer.
    pub async fn send(&mut self, mut request: Request<Full<Bytes>>) -> Result<Answer> {
        request.headers_mut().insert(HOST, self.host.parse()?);
        self.sender.ready().await?;
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        Ok(Answer { status: head.status, body: body.collect().await?.to_bytes() })
    }

    /// # Errors
    /// As `send`.
    pub async fn get(&mut self, path: &str, token: &str) -> Result<Answer> {
        self.send(Request::get(path).header(AUTHORIZATION, format!("Bearer {token}")).body(Full::default())?).await
    }

    /// # Errors
    /// As `send`.
    pub async fn post(&mut self, path: &str, token: &str, key: Option<&str>, body: Bytes) -> Result<Answer> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .header(CONTENT_TYPE, "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.send(request.body(Full::new(body))?).await
    }
}

/// Registers a property by each POST.
pub struct Posts {
    client: Client,
    token: String,
    keyed: bool,
    /// The body, and where in it the owner's id stands.
    body: String,
    owner_at: usize,
}

#[derive(Deserialize)]
struct Created {
    id: Uuid,
}

impl Posts {
    /// So many of them, each with a connection; one port after the other.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn connect(ports: &[u16], callers: usize, token: &str, keyed: bool) -> Result<Vec<Self>> {
        let owner = Uuid::from_u128(u128::MAX);
        let body = registration_body(owner).to_string();
        let owner_at = body.find(&owner.to_string()).context("no owner in the body")?;
        let mut posts = Vec::with_capacity(callers);
        for port in ports.iter().cycle().take(callers) {
            let client = Client::connect(*port).await?;
            posts.push(Self { client, token: token.to_owned(), keyed, body: body.clone(), owner_at });
        }
        Ok(posts)
    }
}

impl Caller for Posts {
    async fn call(&mut self) -> Result<Ack, String> {
        let marker = Uuid::now_v7();
        let text = marker.to_string();
        self.body.replace_range(self.owner_at..self.owner_at + text.len(), &text);
        let key = self.keyed.then_some(text.as_str());
        let answer = self.client.post("/properties", &self.token, key, Bytes::from(self.body.clone())).await;
        let answer = answer.map_err(|error| format!("{error:#}"))?;
        if answer.status != StatusCode::CREATED {
            return Err(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)));
        }
        let created: Created = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
        Ok(Ack { aggregate: created.id, marker })
    }
}

/// Names the owners of one property after the other by POST, in a circle that it shares with no other caller.
pub struct Owners {
    client: Client,
    token: String,
    ids: Circle,
}

impl Owners {
    /// One for each circle, each with a connection.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn connect(port: u16, circles: Vec<Circle>, token: &str) -> Result<Vec<Self>> {
        let mut owners = Vec::with_capacity(circles.len());
        for ids in circles {
            owners.push(Self { client: Client::connect(port).await?, token: token.to_owned(), ids });
        }
        Ok(owners)
    }
}

impl Caller for Owners {
    async fn call(&mut self) -> Result<Ack, String> {
        let ack = Ack { aggregate: self.ids.next(), marker: Uuid::now_v7() };
        let (path, body) = (format!("/properties/{}/owners", ack.aggregate), assignment_body(ack.marker).to_string());
        let answer = self.client.post(&path, &self.token, None, Bytes::from(body)).await;
        let answer = answer.map_err(|error| format!("{error:#}"))?;
        match answer.status {
            StatusCode::OK => Ok(ack),
            status => Err(format!("{status} {}", String::from_utf8_lossy(&answer.body))),
        }
    }
}

/// Reads one address again and again.
pub struct Gets {
    client: Client,
    path: String,
    token: String,
}

impl Gets {
    /// # Errors
    /// When nobody answers there.
    pub async fn connect(port: u16, callers: usize, path: &str, token: &str) -> Result<Vec<Self>> {
        let mut gets = Vec::with_capacity(callers);
        for _ in 0..callers {
            gets.push(Self { client: Client::connect(port).await?, path: path.to_owned(), token: token.to_owned() });
        }
        Ok(gets)
    }
}

impl Caller for Gets {
    async fn call(&mut self) -> Result<Ack, String> {
        let answer = self.client.get(&self.path, &self.token).await.map_err(|error| format!("{error:#}"))?;
        match answer.status {
            // Nothing is looked up afterwards: what was read is not in a log.
            StatusCode::OK => Ok(Ack { aggregate: Uuid::nil(), marker: Uuid::nil() }),
            status => Err(format!("{status} {}", String::from_utf8_lossy(&answer.body))),
        }
    }
}
