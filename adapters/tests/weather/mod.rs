//! A TCP proxy in front of a server, whose weather a test makes; and waiting for a condition with a bound.

use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

const BOUND: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq)]
pub enum Weather {
    Fair,
    /// Connections are accepted and never answered, as by a stopped process.
    Silent,
    /// Connections are cut and refused a moment later.
    Cut,
}

/// A TCP proxy in front of Redis whose weather the test makes.
pub struct Proxy {
    pub port: u16,
    weather: watch::Sender<Weather>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub async fn start(host: &str, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let upstream = (host.to_owned(), port);
        let port = listener.local_addr().expect("an address").port();
        let (weather, seen) = watch::channel(Weather::Fair);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(client, upstream.clone(), seen.clone()));
            }
        });
        Self { port, weather, _tasks: tasks }
    }

    pub fn make(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn carry(mut client: TcpStream, upstream: (String, u16), mut weather: watch::Receiver<Weather>) {
    let started_in = *weather.borrow();
    match started_in {
        Weather::Cut => {}
        // Holds the socket open without reading.
        Weather::Silent => drop(weather.wait_for(|weather| *weather == Weather::Cut).await),
        Weather::Fair => {
            let Ok(mut server) = TcpStream::connect((upstream.0.as_str(), upstream.1)).await else { return };
            tokio::select! {
                _ = copy_bidirectional(&mut client, &mut server) => return,
                changed = weather.wait_for(|weather| *weather != Weather::Fair) => drop(changed),
            }
            let silent = *weather.borrow() == Weather::Silent;
            if silent {
                drop(weather.wait_for(|weather| *weather == Weather::Cut).await);
            }
        }
    }
}

/// Asks again and again, without a pause, until it holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let reached = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, reached).await.unwrap_or_else(|_| panic!("not within {BOUND:?}: {what}"));
}
