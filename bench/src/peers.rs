//! What the reads are held against: axum with constant bytes and with Redis, Nginx' static files, the seed's stack. All of them
//! serve the product's own bytes.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::extract::{Path as Param, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use redis::AsyncCommands;
use rustix::process::Signal;
use xtask::net::{accepts, free_port};
use xtask::process::{Account, Program, find_program, private_dir, private_file};
use xtask::servers::{Redis, Server};
use xtask::workspace;

use crate::bench::Bench;

/// The word by which this program is started as the axum peer.
const AXUM: &str = "peer-axum";
const READY_WITHIN: Duration = Duration::from_secs(20);
const STOPS_WITHIN: Duration = Duration::from_secs(10);
/// Threads of each of the two processes of the seed; of `sync` and `gthread` with 4, 16 and 40 threads the fastest here.
const SEED_THREADS: u32 = 4;

/// Runs as a peer when started as one.
pub fn run_if_asked() -> Option<Result<()>> {
    let args: Vec<OsString> = std::env::args_os().collect();
    if args.get(1)? != AXUM {
        return None;
    }
    Some(serve_axum(&args[2..]))
}

/// What a body is called, and its bytes.
pub type Bodies = Vec<(&'static str, Bytes)>;

pub struct Peers {
    // Field order is drop order.
    nginx: Server,
    axum: Server,
    _gunicorn: Server,
    _redis: Redis,
}

impl Peers {
    /// Starts all of them.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn start(bench: &Bench, folder: &Path, bodies: &Bodies) -> Result<Self> {
        let redis = Redis::start(&folder.join("redis"), None)?;
        let url = redis.url();
        bench.block(async {
            let mut connection = redis::Client::open(url.as_str())?.get_multiplexed_async_connection().await?;
            for (name, body) in bodies {
                let () = connection.set(*name, body.as_ref()).await?;
            }
            anyhow::Ok(())
        })?;
        let files = folder.join("bodies");
        let account = Account::to_drop_to("www-data");
        private_dir(&files, account.as_ref())?;
        for (name, body) in bodies {
            private_file(&files.join(format!("{name}.json")), body, account.as_ref())?;
        }
        let axum = start_axum(folder, &files, &url)?;
        let gunicorn = start_gunicorn(folder, &url)?;
        let nginx = start_nginx(folder, &files, axum.port(), gunicorn.port(), account)?;
        Ok(Self { nginx, axum, _gunicorn: gunicorn, _redis: redis })
    }

    /// `/constant/NAME` and `/redis/NAME`.
    pub fn axum_port(&self) -> u16 {
        self.axum.port()
    }

    /// `/NAME.json` from disk, `/constant/NAME` by axum, `/cached/NAME` by the seed.
    pub fn nginx_port(&self) -> u16 {
        self.nginx.port()
    }
}

fn start(program: Program, port: u16, signal: Signal) -> Result<Server> {
    let mut server = Server::new(program, port, signal, STOPS_WITHIN);
    server.start_until(READY_WITHIN, |port| Ok(accepts(port)))?;
    Ok(server)
}

fn start_axum(folder: &Path, files: &Path, redis: &str) -> Result<Server> {
    let port = free_port()?;
    let program = Program::new("axum", std::env::current_exe()?, folder.join("axum.log")).args([
        AXUM,
        &port.to_string(),
        redis,
        utf8(files)?,
    ]);
    start(program, port, Signal::TERM)
}

/// Two processes, as the seed has; keep-alive, no access log.
fn start_gunicorn(folder: &Path, redis: &str) -> Result<Server> {
    let port = free_port()?;
    let program = Program::new("gunicorn", venv()?.join("bin/gunicorn"), folder.join("gunicorn.log"))
        .args(["app:app", "--workers", "2", "--worker-class", "gthread", "--threads", &SEED_THREADS.to_string()])
        .args(["--bind", &format!("127.0.0.1:{port}"), "--keep-alive", "75", "--log-level", "warning"])
        .args(["--chdir", utf8(&seed_folder())?, "--worker-tmp-dir", "/dev/shm"])
        .env("SEED_REDIS", format!("{redis}/0"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    start(program, port, Signal::TERM)
}

/// As fast as its manual says: sendfile, an open file cache, no access log, connections to the upstreams kept.
fn start_nginx(folder: &Path, files: &Path, axum: u16, gunicorn: u16, account: Option<Account>) -> Result<Server> {
    let (dir, port) = (folder.join("nginx"), free_port()?);
    private_dir(&dir, account.as_ref())?;
    let temp: Vec<String> = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {}/{kind};", dir.display()))
        .collect();
    let config = format!(
        "daemon off;\npid nginx.pid;\nworker_processes auto;\nevents {{ worker_connections 4096; }}\nhttp {{\n\
         access_log off;\nsendfile on;\ntcp_nopush on;\nopen_file_cache max=16 inactive=60s;\nserver_tokens off;\n{}\n\
         types {{ application/json json; }}\n\
         upstream axum {{ server 127.0.0.1:{axum}; keepalive 64; }}\n\
         upstream seed {{ server 127.0.0.1:{gunicorn}; keepalive 64; }}\n\
         proxy_http_version 1.1;\nproxy_set_header Connection \"\";\nproxy_buffers 16 8k;\n\
         server {{\nlisten 127.0.0.1:{port};\nroot {};\n\
         location /constant/ {{ proxy_pass http://axum; }}\n\
         location /cached/ {{ proxy_pass http://seed; }}\n}}\n}}\n",
        temp.join("\n"),
        files.display(),
    );
    let file = dir.join("nginx.conf");
    private_file(&file, config.as_bytes(), account.as_ref())?;
    let program =
        Program::new("nginx of the peers", find_program(&["nginx"]).context("Nginx is not installed")?, dir.join("log"))
            .args(["-p", utf8(&dir)?, "-c", utf8(&file)?, "-e", utf8(&dir.join("error.log"))?])
            .clean_env()
            .dir(&dir)
            .account(account);
    start(program, port, Signal::QUIT)
}

pub fn seed_folder() -> PathBuf {
    workspace::root().join("bench/seed")
}

/// The seed's packages, installed from PyPI once for each version of the list.
///
/// # Errors
/// When Python or PyPI is not there.
pub fn venv() -> Result<PathBuf> {
    let venv = workspace::target_dir().join("bench-venv");
    let list = seed_folder().join("requirements.txt");
    let wanted = fs::read_to_string(&list)?;
    let stamp = venv.join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(venv);
    }
    eprintln!("bench: installing the seed's packages into {}", venv.display());
    if venv.exists() {
        fs::remove_dir_all(&venv)?;
    }
    let python = find_program(&["python3"]).context("python3 is not installed")?;
    quietly(Command::new(python).args(["-m", "venv"]).arg(&venv))?;
    quietly(
        Command::new(venv.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&list),
    )?;
    fs::write(stamp, wanted)?;
    Ok(venv)
}

fn quietly(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

#[derive(Clone)]
struct Peer {
    bodies: Arc<HashMap<String, Bytes>>,
    redis: redis::aio::MultiplexedConnection,
}

/// `port redis-url folder`: two worker threads, as the product.
fn serve_axum(args: &[OsString]) -> Result<()> {
    let text = |at: usize| args.get(at).and_then(|arg| arg.to_str()).context("peer-axum PORT REDIS FOLDER");
    let (port, redis, folder) = (text(0)?.parse::<u16>()?, text(1)?, Path::new(text(2)?));
    let mut bodies = HashMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).context("a name that is not UTF-8")?.to_owned();
        bodies.insert(name, Bytes::from(fs::read(&path)?));
    }
    crate::bench::runtime()?.block_on(async {
        let redis = redis::Client::open(redis)?.get_multiplexed_async_connection().await?;
        let app = Router::new()
            .route("/constant/{name}", get(constant))
            .route("/redis/{name}", get(from_redis))
            .with_state(Peer { bodies: Arc::new(bodies), redis });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        axum::serve(listener, app).await?;
        Ok(())
    })
}

async fn constant(State(peer): State<Peer>, Param(name): Param<String>) -> Response {
    answer(peer.bodies.get(&name).cloned())
}

async fn from_redis(State(mut peer): State<Peer>, Param(name): Param<String>) -> Response {
    match peer.redis.get::<_, Option<Vec<u8>>>(&name).await {
        Ok(body) => answer(body.map(Bytes::from)),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

fn answer(body: Option<Bytes>) -> Response {
    match body {
        Some(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
