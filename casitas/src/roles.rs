//! What a process runs, and how it starts and stops.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use axum::extract::Request;
use axum::{Router, ServiceExt};
use command_api::{Api, ApiConfig};
use commands::Handler;
use projector::{HotCollections, Projector, Rebuilder};
use query_api::{Feed, HotWriter, QueryApi, Reader, ReaderConfig, ViewPrincipals};
use report_worker::{CrashAt, CrashPoint, Registry, WorkerConfig, WorkerPorts, WorkerStatus};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use web::Front;

use crate::config::{Settings, Switch};
use crate::openapi;
use crate::ops::{Ops, documents};
use crate::platform::{Check, Platform, Role};
use crate::telemetry;

/// From the signal to the end: requests under way get this long (R16 of reliability-security.md: 10 s in all).
const DRAIN_MAX: Duration = Duration::from_secs(8);
/// Unready this long before the listener closes, so that a proxy in front has noticed. Embedded needs none.
const UNREADY_FIRST: Duration = Duration::from_millis(300);

/// Everything in one process.
pub async fn serve(settings: &Settings, demo: Option<crate::demo::Plan>) -> Result<()> {
    if demo.is_some() || settings.demo_logins_on() {
        settings.check_demo_bind()?;
    }
    let metrics = telemetry::init_metrics()?;
    let platform = Platform::open(settings, Role::Operator).await?;
    anyhow::ensure!(
        !platform.distributed,
        "`casitas serve` is the embedded mode: unset CASITAS_POSTGRES, or start the roles one by one"
    );
    let listener = bind(&settings.listen).await?;
    let handler = platform.handler()?;
    let demo_on = demo.is_some() || settings.demo_logins_on();
    let shutdown = shutdown_signal();
    let mut tasks = JoinSet::new();

    upgrade(&platform, &shutdown).await?;
    let projector = projector(&platform, settings, handler.clone())?;
    let board = projector.board();
    tasks.spawn(projector.run(shutdown.clone()));
    // Seeded before anything is answered; the move-in process that it needs is running.
    let seeded = match &demo {
        Some(plan) => crate::demo::seed_if_empty(&platform, &handler, plan).await?,
        None => None,
    };
    let worker = worker(&platform, settings, "embedded")?;
    tasks.spawn(report_worker::run(worker.0, worker.1, shutdown.clone()));
    let socket =
        crate::socket::serve(&settings.data_dir, platform.clone(), handler.clone(), board.clone(), shutdown.clone())?;
    tasks.spawn(socket);

    let (queries, reads, reader_feed) = queries(&platform, settings)?;
    tokio::spawn(reader_feed);
    let mut checks = platform.checks.clone();
    checks.push(Check::Reads(reads.clone()));
    checks.extend(appends(&handler));
    let ops = Ops::new(checks, Some(board), metrics);
    let commands = commands(&platform, handler, demo_on)?;
    let served = settings.served_by("casitas");
    let app = assemble(commands.merge(queries), &platform, &ops, served, Some(reads))?;
    banner(settings, &listener, demo_on, seeded)?;
    http(listener, app, &ops, &shutdown, Duration::ZERO).await?;
    finish(tasks).await;
    Ok(())
}

/// What an earlier release stored in other columns is made anew before anything is answered. What it only folded otherwise is read
/// as it is, until the projector has made it anew beside it.
async fn upgrade(platform: &Platform, shutdown: &CancellationToken) -> Result<()> {
    let Some(views) = platform.generations.clone() else { return Ok(()) };
    let rebuilder = Rebuilder::new(platform.logs.clone(), platform.sealer()?, views, platform.hints.clone());
    let upgraded = async {
        let unreadable = rebuilder.unreadable(&read_models::all()).await?;
        rebuilder.upgrade(&unreadable, shutdown).await
    };
    upgraded.await.context("a read model of an earlier release cannot be rebuilt")?;
    Ok(())
}

pub async fn command_api(settings: &Settings) -> Result<()> {
    let demo = settings.demo_logins_on();
    if demo {
        settings.check_demo_bind()?;
    }
    let metrics = telemetry::init_metrics()?;
    let platform = Platform::open(settings, Role::CommandApi).await?;
    let handler = platform.handler()?;
    let checks = platform.checks.iter().cloned().chain(appends(&handler)).collect();
    let ops = Ops::new(checks, None, metrics);
    let api = commands(&platform, handler, demo)?;
    let app = assemble(api, &platform, &ops, settings.served_by("command-api"), None)?;
    let listener = bind(&settings.listen).await?;
    tracing::info!(listen = %listener.local_addr()?, "command-api answers");
    serve_role(settings, listener, app, ops).await
}

/// One check a log that commands of this process are appended to.
fn appends(handler: &Handler) -> impl Iterator<Item = Check> + use<'_> {
    handler.logs().iter().map(|log| Check::Appends(handler.clone(), log.context()))
}

pub async fn query_api(settings: &Settings) -> Result<()> {
    let metrics = telemetry::init_metrics()?;
    let platform = Platform::open(settings, Role::QueryApi).await?;
    let (api, reads, feed) = queries(&platform, settings)?;
    tokio::spawn(feed);
    let mut checks = platform.checks.clone();
    checks.push(Check::Reads(reads.clone()));
    let ops = Ops::new(checks, None, metrics);
    let app = assemble(api, &platform, &ops, settings.served_by("query-api"), Some(reads))?;
    let listener = bind(&settings.listen).await?;
    tracing::info!(listen = %listener.local_addr()?, "query-api answers");
    serve_role(settings, listener, app, ops).await
}

pub async fn projector_role(settings: &Settings) -> Result<()> {
    let metrics = telemetry::init_metrics()?;
    let platform = Platform::open(settings, Role::Projector).await?;
    let shutdown = shutdown_signal();
    let projector = projector(&platform, settings, platform.handler()?)?;
    let ops = Ops::new(platform.checks.clone(), Some(projector.board()), metrics);
    let mut tasks = JoinSet::new();
    tasks.spawn(projector.run(shutdown.clone()));
    ops_listener(settings, &ops, &mut tasks, &shutdown).await?;
    tracing::info!("projector follows the logs");
    until_shutdown(&mut tasks, &shutdown).await?;
    ops.drain();
    finish(tasks).await;
    Ok(())
}

pub async fn report_worker_role(settings: &Settings) -> Result<()> {
    let metrics = telemetry::init_metrics()?;
    let platform = Platform::open(settings, Role::ReportWorker).await?;
    let shutdown = shutdown_signal();
    let (config, ports) = worker(&platform, settings, &settings.served_by("report-worker"))?;
    let mut checks = platform.checks.clone();
    checks.push(Check::Consumer(ports.status.clone()));
    let ops = Ops::new(checks, None, metrics);
    let mut tasks = JoinSet::new();
    tasks.spawn(report_worker::run(config, ports, shutdown.clone()));
    ops_listener(settings, &ops, &mut tasks, &shutdown).await?;
    tracing::info!(slots = settings.slots(), renderings = settings.renderings(), "report-worker waits for jobs");
    until_shutdown(&mut tasks, &shutdown).await?;
    ops.drain();
    finish(tasks).await;
    Ok(())
}

async fn serve_role(settings: &Settings, listener: TcpListener, app: Front, ops: Ops) -> Result<()> {
    let shutdown = shutdown_signal();
    let mut tasks = JoinSet::new();
    ops_listener(settings, &ops, &mut tasks, &shutdown).await?;
    http(listener, app, &ops, &shutdown, UNREADY_FIRST).await?;
    finish(tasks).await;
    Ok(())
}

/// /livez, /readyz and /metrics on the internal listener, when there is one.
async fn ops_listener(settings: &Settings, ops: &Ops, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) -> Result<()> {
    let Some(address) = &settings.ops_listen else { return Ok(()) };
    let listener = bind(address).await?;
    let (router, token) = (ops.router(), shutdown.clone());
    tasks.spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(async move { token.cancelled().await });
        if let Err(error) = served.await {
            tracing::error!(%error, "the internal listener stopped");
        }
    });
    Ok(())
}

fn commands(platform: &Platform, handler: commands::Handler, demo: bool) -> Result<OpenApiRouter> {
    let api = Api::new(ApiConfig {
        handler,
        signer: platform.signer()?,
        verifier: Arc::new(platform.verifier()?),
        artifacts: platform.artifacts.clone(),
        hints: platform.hints.clone(),
        demo,
    });
    Ok(command_api::router(api))
}

/// The reads' routes, what readiness and the shortcut ask of them, and the change feed to be run.
fn queries(
    platform: &Platform,
    settings: &Settings,
) -> Result<(OpenApiRouter, QueryApi, impl Future<Output = ()> + Send + use<>)> {
    let feed = Arc::new(Feed::new(platform.views.clone()));
    let memory = ReaderConfig::default().memory_bytes;
    let config = ReaderConfig { memory_bytes: memory.filter(|_| settings.memory_cache == Switch::On) };
    let reader = Reader::new(platform.views.clone(), platform.shared.clone(), platform.clock.clone(), feed.clone(), &config);
    let principals = Arc::new(ViewPrincipals::new(reader.clone()));
    let authenticator = web::Authenticator { verifier: Arc::new(platform.verifier()?), principals };
    let api = QueryApi::new(reader, platform.artifacts.clone(), authenticator);
    let run = feed.run(platform.hints.clone());
    Ok((query_api::router(api.clone()), api, run))
}

struct Hot(Arc<HotWriter>);

#[async_trait]
impl HotCollections for Hot {
    async fn refresh(&self, model: &str, tags: &BTreeSet<String>) -> ports::Result<()> {
        self.0.refresh_hot(model, tags).await
    }
}

pub fn projector(platform: &Platform, settings: &Settings, handler: commands::Handler) -> Result<Projector> {
    let hot = platform.shared.clone().map(|shared| {
        let writer = Arc::new(HotWriter::new(platform.views.clone(), shared, platform.clock.clone()));
        tokio::spawn(writer.clone().keep_warm());
        Arc::new(Hot(writer)) as Arc<dyn HotCollections>
    });
    let ports = projector::Ports {
        logs: platform.logs.clone(),
        sealer: platform.sealer()?,
        views: platform.views.clone(),
        queue: platform.queue.clone().context("the projector needs the job queue")?,
        hints: platform.hints.clone(),
        clock: platform.clock.clone(),
        handler,
        hot,
        generations: platform.generations.clone(),
    };
    // The workers' slots must be told to the projector too: it could not know what they hold.
    let workers = WorkerConfig { slots: settings.slots(), ..WorkerConfig::new("") };
    let config = projector::Config {
        delay: Duration::from_millis(settings.projector_delay_ms),
        held_per_consumer: u64::from(workers.prefetch().0),
        ..projector::Config::default()
    };
    Projector::new(ports, config).map_err(|error| anyhow::anyhow!("{}", error.chain()))
}

fn worker(platform: &Platform, settings: &Settings, name: &str) -> Result<(WorkerConfig, WorkerPorts)> {
    let mut config = WorkerConfig::new(name);
    config.slots = settings.slots();
    config.renderings = settings.renderings();
    config.render_delay = Duration::from_millis(settings.render_delay_ms);
    config.crash_at = settings.crash_at.as_deref().map(crash_point).transpose()?;
    #[cfg(feature = "seeded-bugs")]
    {
        config.ack_first = settings.seeded_bug == Some(crate::config::SeededBug::AckBeforeAppend);
    }
    let ports = WorkerPorts {
        handler: platform.reports_handler()?,
        queue: platform.queue.clone().context("a report worker needs the job queue")?,
        views: platform.views.clone(),
        artifacts: platform.artifacts.clone(),
        hints: platform.hints.clone(),
        registry: Registry::standard(),
        status: WorkerStatus::default(),
    };
    Ok((config, ports))
}

fn crash_point(text: &str) -> Result<CrashAt> {
    let (point, nth) = text.split_once(':').unwrap_or((text, "1"));
    let point = match point {
        "render" => CrashPoint::BetweenRenderAndStore,
        "store" => CrashPoint::BetweenStoreAndAppend,
        "append" => CrashPoint::BetweenAppendAndAck,
        other => anyhow::bail!("{other:?} is no crash point: render, store or append"),
    };
    Ok(CrashAt::new(point, nth.parse().context("the number after the crash point")?))
}

/// The API at its seed paths and under /v1, the documents, the operator routes.
fn assemble(api: OpenApiRouter, platform: &Platform, ops: &Ops, served: String, reads: Option<QueryApi>) -> Result<Front> {
    let (api, mut document) = api.split_for_parts();
    openapi::finish(&mut document);
    // Every role serves the whole document, whichever part of it the process answers itself.
    let text = openapi::document().to_json().context("the OpenAPI document")?;
    let jwks = platform.verifier()?.jwks().clone();
    let router = Router::new()
        .merge(api.clone())
        .nest("/v1", api)
        .merge(documents(text, jwks))
        .merge(ops.router())
        .fallback(web::not_found);
    let shortcut = reads.map(|reads| Arc::new(reads) as Arc<dyn web::Shortcut>);
    Ok(Front::new(router, web::Served(served), shortcut))
}

async fn bind(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: is another process there? choose another with --listen"))
}

/// Serves until shutdown: first unready, then no new connections, then what is under way, within the drain's deadline.
async fn http(listener: TcpListener, app: Front, ops: &Ops, shutdown: &CancellationToken, unready: Duration) -> Result<()> {
    let (ops, token) = (ops.clone(), shutdown.clone());
    let (closing, closed) = tokio::sync::oneshot::channel();
    let server = axum::serve(listener, ServiceExt::<Request>::into_make_service(app)).with_graceful_shutdown(async move {
        token.cancelled().await;
        ops.drain();
        tokio::time::sleep(unready).await;
        let _ = closing.send(());
    });
    let deadline = async {
        if closed.await.is_ok() {
            tokio::time::sleep(DRAIN_MAX).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        served = server.into_future() => served.context("the listener stopped"),
        () = deadline => {
            tracing::warn!("some connections did not end in time and were cut");
            Ok(())
        }
    }
}

/// Waits for the signal; a part that ends before it is a failure of the process, which its supervisor restarts.
async fn until_shutdown(tasks: &mut JoinSet<()>, shutdown: &CancellationToken) -> Result<()> {
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        Some(ended) = tasks.join_next() => match ended {
            _ if shutdown.is_cancelled() => Ok(()),
            Ok(()) => anyhow::bail!("a part of the process ended by itself"),
            Err(error) => Err(error).context("a part of the process failed"),
        },
    }
}

async fn finish(mut tasks: JoinSet<()>) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_MAX, all).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    tracing::info!("stopped");
}

/// Cancelled by SIGTERM or Ctrl-C; a second one ends the process at once.
fn shutdown_signal() -> CancellationToken {
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        wait_for_signal().await;
        tracing::info!("stopping; once more ends at once");
        cancel.cancel();
        wait_for_signal().await;
        #[allow(
            clippy::disallowed_methods,
            reason = "the second signal asks for exactly that; every acknowledged command is durable"
        )]
        std::process::exit(130);
    });
    token
}

async fn wait_for_signal() {
    let mut terminate = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            tracing::error!(%error, "SIGTERM cannot be listened for");
            return std::future::pending().await;
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

fn banner(settings: &Settings, listener: &TcpListener, demo: bool, seeded: Option<String>) -> Result<()> {
    let url = format!("http://{}", listener.local_addr()?);
    println!(
        "Casitas Empire {}  embedded: SQLite {}, cache and queue in process",
        env!("CARGO_PKG_VERSION"),
        settings.data_dir.display()
    );
    println!("API {url}   docs /docs   metrics /metrics");
    if let Some(seeded) = seeded {
        println!("demo data loaded into the empty store: {seeded}");
    }
    if demo {
        println!("demo logins on loopback only: test_admin / {}", domain::auth::DEMO_PASSWORD);
    } else {
        println!("no user yet? casitas users add NAME --role admin");
    }
    Ok(())
}
