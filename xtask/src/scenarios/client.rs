//! A small HTTP client: plain requests, whole answers, and checks that name what came instead.

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::runtime::Runtime;

/// A request that takes longer than this has failed (the API's own deadline is 15 s).
pub const REQUEST_MAX: Duration = Duration::from_secs(20);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("threads for a runtime")
});

/// Runs a future from a thread of no runtime.
pub fn block<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// Runs it beside us.
pub fn spawn<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    RUNTIME.spawn(future)
}

/// One base address and the connections to it.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl Http {
    pub fn new(base: &str) -> Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(REQUEST_MAX)
            .connect_timeout(Duration::from_secs(2))
            .pool_max_idle_per_host(128)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { client, base: base.trim_end_matches('/').to_owned(), token: None })
    }

    /// The same, as somebody.
    pub fn with(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The same, as nobody.
    pub fn anonymous(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    /// The same caller at another address.
    pub fn at(&self, base: &str) -> Self {
        Self { base: base.trim_end_matches('/').to_owned(), ..self.clone() }
    }

    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    pub fn request(&self, method: &str, path: &str) -> Ask {
        Ask { http: self.clone(), method: method.to_owned(), path: path.to_owned(), headers: HeaderMap::new(), body: None }
    }

    pub fn get(&self, path: &str) -> Ask {
        self.request("GET", path)
    }

    pub fn post(&self, path: &str, body: &Value) -> Ask {
        self.request("POST", path).json(body)
    }

    /// POST that must be accepted.
    pub fn done(&self, path: &str, body: &Value) -> Result<Answer> {
        self.post(path, body).now()?.success()
    }
}

/// A request being made.
#[derive(Clone, Debug)]
pub struct Ask {
    http: Http,
    method: String,
    path: String,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
}

impl Ask {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.headers.append(name, value);
        }
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.raw("application/json", body.to_string().into_bytes())
    }

    pub fn raw(mut self, content_type: &str, body: Vec<u8>) -> Self {
        self.body = Some(body);
        self.header("content-type", content_type)
    }

    pub fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    /// Must have seen what `answer` did; waits up to `wait_s` seconds for it.
    pub fn after(self, position: &str, wait_s: u32) -> Self {
        self.header("casitas-min-position", position).header("prefer", &format!("wait={wait_s}"))
    }

    pub async fn send(&self) -> Result<Answer> {
        let method = Method::from_bytes(self.method.as_bytes())?;
        let mut request = self.http.client.request(method, format!("{}{}", self.http.base, self.path));
        request = request.headers(self.headers.clone());
        if let Some(token) = &self.http.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = &self.body {
            request = request.body(body.clone());
        }
        let what = format!("{} {}", self.method, self.path);
        let answered = request.send().await.with_context(|| what.clone())?;
        let (status, headers) = (answered.status().as_u16(), answered.headers().clone());
        let body = answered.bytes().await.with_context(|| what.clone())?.to_vec();
        Ok(Answer { what, status, headers, body })
    }

    /// From a thread of no runtime.
    pub fn now(&self) -> Result<Answer> {
        block(self.send())
    }
}

#[derive(Clone, Debug)]
pub struct Answer {
    /// Method and path that were asked.
    pub what: String,
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {self}"))
    }

    /// The code of a problem, or nothing.
    pub fn code(&self) -> String {
        self.json().ok().and_then(|body| body["code"].as_str().map(str::to_owned)).unwrap_or_default()
    }

    pub fn success(self) -> Result<Self> {
        ensure!((200..300).contains(&self.status), "{self}");
        Ok(self)
    }

    pub fn expect(self, status: u16) -> Result<Self> {
        ensure!(self.status == status, "expected {status}: {self}");
        Ok(self)
    }

    /// `Casitas-Position` as a read presents it.
    pub fn position(&self) -> Result<String> {
        self.header("casitas-position").map(str::to_owned).with_context(|| format!("no Casitas-Position: {self}"))
    }

    pub fn id(&self) -> Result<String> {
        self.json()?["id"].as_str().map(str::to_owned).with_context(|| format!("no id: {self}"))
    }

    pub fn served_by(&self) -> String {
        self.header("x-served-by").unwrap_or_default().to_owned()
    }

    pub fn is_hit(&self) -> bool {
        self.header("x-cache") == Some("HIT")
    }

    /// RFC 9457 with this status and code.
    pub fn problem(&self, status: u16, code: &str) -> Result<Value> {
        let body = self.any_problem()?;
        ensure!(self.status == status && body["code"] == code, "expected {status} {code}: {self}");
        Ok(body)
    }

    /// RFC 9457 with all that ours have.
    pub fn any_problem(&self) -> Result<Value> {
        ensure!(self.header("content-type") == Some("application/problem+json"), "no problem document: {self}");
        let body = self.json()?;
        let complete = ["type", "title", "detail", "code"].iter().all(|field| body[field].is_string());
        ensure!(complete && body["status"] == self.status, "an incomplete problem: {self}");
        Ok(body)
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.text();
        let cut: String = text.chars().take(600).collect();
        write!(f, "{} answered {} {cut}", self.what, self.status)
    }
}

/// Polls until `ready` answers something; no other way of waiting is used in the scenarios.
pub async fn until<T, F: Future<Output = Result<Option<T>>>>(
    what: &str,
    bound: Duration,
    mut ready: impl FnMut() -> F,
) -> Result<T> {
    let started = tokio::time::Instant::now();
    loop {
        if let Some(found) = ready().await.with_context(|| what.to_owned())? {
            return Ok(found);
        }
        if started.elapsed() >= bound {
            bail!("{what}: not after {} s", bound.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
