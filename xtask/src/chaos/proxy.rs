//! TCP proxies between every client and its server, whose weather the harness makes and which count what it really did.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::net::{free_port, random_u64};
use crate::scenarios::client::{block, spawn};
use crate::stack::Route;

/// What happens to bytes and connections on one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    Fair,
    /// Each piece of data comes so much later.
    Slow {
        ms: u64,
        jitter_ms: u64,
    },
    /// Connections are accepted and nothing is delivered. What was held comes late when the weather is fair again, as after
    /// retransmission; or the connections are reset.
    Hole {
        late: bool,
    },
    /// Every connection is reset, and every new one.
    Reset,
    /// Requests pass; after so many bytes of the answer the connection is closed.
    Cut {
        after: usize,
    },
    /// Nobody listens, and what was connected is reset.
    Refused,
}

impl Weather {
    pub fn name(self) -> &'static str {
        match self {
            Self::Fair => "fair",
            Self::Slow { .. } => "slow",
            Self::Hole { .. } => "blackhole",
            Self::Reset => "reset",
            Self::Cut { .. } => "cut-reply",
            Self::Refused => "refused",
        }
    }

    fn resets(self) -> bool {
        matches!(self, Self::Reset | Self::Refused)
    }
}

/// What a proxy did to its clients since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub connections: u64,
    /// Connections that the weather ended.
    pub cut: u64,
    /// Bytes that were held back or thrown away.
    pub swallowed: u64,
    /// Pieces that came late.
    pub delayed: u64,
    /// Connections that found nobody.
    pub refused: u64,
}

impl Done {
    /// How often the weather since `before` was felt.
    pub fn felt_since(&self, before: &Self) -> u64 {
        (self.cut - before.cut)
            + (self.delayed - before.delayed)
            + (self.refused - before.refused)
            + u64::from(self.swallowed > before.swallowed)
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, cut, swallowed, delayed, refused } = self;
        write!(f, "{connections} connections, {cut} cut, {swallowed} bytes held, {delayed} late, {refused} refused")
    }
}

#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    cut: AtomicU64,
    swallowed: AtomicU64,
    delayed: AtomicU64,
    refused: AtomicU64,
}

/// One way from a client to a server.
#[derive(Clone)]
pub struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    counters: Arc<Counters>,
}

impl Proxy {
    fn start(server: u16) -> Result<Self> {
        let port = free_port()?;
        let (weather, seen) = watch::channel(Weather::Fair);
        let counters = Arc::new(Counters::default());
        let listener = block(bind(port))?;
        spawn(listen(listener, port, server, seen, counters.clone()));
        Ok(Self { port, weather, counters })
    }

    pub fn make(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    pub fn done(&self) -> Done {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { connections, cut, swallowed, delayed, refused } = &*self.counters;
        Done {
            connections: read(connections),
            cut: read(cut),
            swallowed: read(swallowed),
            delayed: read(delayed),
            refused: read(refused),
        }
    }

    /// Knocks once: a refusal counts, since a client's own would be nobody's to count.
    pub fn knock(&self) {
        let refused = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err();
        self.counters.refused.fetch_add(u64::from(refused), Ordering::Relaxed);
    }
}

/// What a way is called.
pub fn way(client: &str, server: &str) -> String {
    format!("{client} -> {server}")
}

/// All ways of a stack, by (client, server).
#[derive(Clone, Default)]
pub struct Ways(Arc<Mutex<BTreeMap<(String, String), Proxy>>>);

impl Ways {
    /// What a stack is started with.
    pub fn route(&self) -> Route {
        let ways = self.clone();
        Route(Arc::new(move |client, server, port| {
            let proxy = Proxy::start(port)?;
            let told = proxy.port;
            ways.0.lock().unwrap_or_else(PoisonError::into_inner).insert((client.to_owned(), server.to_owned()), proxy);
            Ok(told)
        }))
    }

    pub fn names(&self) -> Vec<(String, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    pub fn get(&self, client: &str, server: &str) -> Result<Proxy> {
        let ways = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (client.to_owned(), server.to_owned());
        ways.get(&key).cloned().with_context(|| format!("no way from {client} to {server}"))
    }
}

/// A killed neighbour's port may be ours again a moment later.
async fn bind(port: u16) -> Result<TcpListener> {
    let mut tries = 0;
    loop {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) if tries == 100 => return Err(error).with_context(|| format!("listening on {port}")),
            Err(_) => tries += 1,
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn listen(
    listener: TcpListener,
    port: u16,
    server: u16,
    mut weather: watch::Receiver<Weather>,
    counters: Arc<Counters>,
) {
    let mut connections = JoinSet::new();
    let mut listener = Some(listener);
    // A receiver of their own: this one is lent to the wait below.
    let given = weather.clone();
    loop {
        while connections.try_join_next().is_some() {}
        let Some(open) = &listener else {
            if weather.wait_for(|weather| *weather != Weather::Refused).await.is_err() {
                return;
            }
            match bind(port).await {
                Ok(again) => listener = Some(again),
                Err(error) => {
                    eprintln!("chaos: {error:#}");
                    return;
                }
            }
            continue;
        };
        tokio::select! {
            accepted = open.accept() => if let Ok((client, _)) = accepted {
                connections.spawn(carry(client, server, given.clone(), counters.clone()));
            },
            changed = weather.wait_for(|weather| *weather == Weather::Refused) => {
                if changed.is_err() {
                    return;
                }
                drop(changed);
                listener = None;
            }
        }
    }
}

async fn carry(mut client: TcpStream, server: u16, mut weather: watch::Receiver<Weather>, counters: Arc<Counters>) {
    counters.connections.fetch_add(1, Ordering::Relaxed);
    let _ = client.set_nodelay(true);
    let cut = |stream: &TcpStream| {
        // A reset, not an orderly end.
        let _ = stream.set_zero_linger();
        counters.cut.fetch_add(1, Ordering::Relaxed);
    };
    let begun_in = *weather.borrow_and_update();
    match begun_in {
        Weather::Reset | Weather::Refused => return cut(&client),
        Weather::Hole { late } => {
            counters.swallowed.fetch_add(1, Ordering::Relaxed);
            let changed = weather.wait_for(|weather| !matches!(weather, Weather::Hole { .. })).await.is_ok();
            if !late || !changed {
                return cut(&client);
            }
        }
        Weather::Fair | Weather::Slow { .. } | Weather::Cut { .. } => {}
    }
    let Ok(mut upstream) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else {
        // As the server itself would: refused, as nearly as an accepted connection can be.
        let _ = client.set_zero_linger();
        return;
    };
    let _ = upstream.set_nodelay(true);
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = upstream.split();
        let up = pump(from_client, to_server, Direction::Request, weather.clone(), &counters);
        let down = pump(from_server, to_client, Direction::Answer, weather.clone(), &counters);
        tokio::select! {
            ended = async { tokio::try_join!(up, down) } => ended.err().unwrap_or(Ended::Orderly),
            _ = weather.wait_for(|weather| weather.resets()) => Ended::Cut,
        }
    };
    if matches!(ended, Ended::Cut) {
        cut(&client);
        let _ = upstream.set_zero_linger();
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Request,
    Answer,
}

enum Ended {
    Orderly,
    Cut,
}

/// Carries one direction until its end, through whatever weather comes.
async fn pump(
    mut from: tcp::ReadHalf<'_>,
    mut to: tcp::WriteHalf<'_>,
    direction: Direction,
    mut weather: watch::Receiver<Weather>,
    counters: &Counters,
) -> Result<(), Ended> {
    let mut buffer = vec![0; 32 * 1024];
    // How much of an answer may still pass, while answers are cut.
    let mut left: Option<usize> = None;
    loop {
        let read = from.read(&mut buffer).await.map_err(|_| Ended::Orderly)?;
        if read == 0 {
            let _ = to.shutdown().await;
            return Ok(());
        }
        let mut now = *weather.borrow_and_update();
        if let Weather::Hole { late } = now {
            counters.swallowed.fetch_add(read as u64, Ordering::Relaxed);
            let changed = weather.wait_for(|weather| !matches!(weather, Weather::Hole { .. })).await;
            match changed {
                Ok(weather) if late => now = *weather,
                Ok(_) | Err(_) => return Err(Ended::Cut),
            }
        }
        let mut passes = read;
        match now {
            Weather::Slow { ms, jitter_ms } => {
                counters.delayed.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(ms + random_u64() % (jitter_ms + 1))).await;
            }
            Weather::Cut { after } if direction == Direction::Answer => {
                let room = left.get_or_insert(after);
                passes = read.min(*room);
                *room -= passes;
            }
            Weather::Reset | Weather::Refused => return Err(Ended::Cut),
            Weather::Fair | Weather::Hole { .. } | Weather::Cut { .. } => left = None,
        }
        to.write_all(&buffer[..passes]).await.map_err(|_| Ended::Orderly)?;
        if passes < read {
            counters.swallowed.fetch_add((read - passes) as u64, Ordering::Relaxed);
            let _ = to.flush().await;
            return Err(Ended::Cut);
        }
    }
}
