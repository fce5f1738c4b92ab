//! Free loopback ports, and waiting for a condition with a bound.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Below the kernel's range for outgoing connections (from 32768): a port taken from that range could be somebody's
/// outgoing one at the moment when a killed server wants it again.
const FIRST_PORT: u16 = 12_000;
const PORTS: u16 = 20_000;

static HANDED_OUT: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A loopback port that nobody listens on, never handed out twice by this process.
///
/// # Errors
/// When a thousand random picks were all taken.
pub fn free_port() -> Result<u16> {
    let mut handed_out = HANDED_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..1_000 {
        let pick = FIRST_PORT + (random_u64() % u64::from(PORTS)) as u16;
        if !handed_out.contains(&pick) && TcpListener::bind((Ipv4Addr::LOCALHOST, pick)).is_ok() {
            handed_out.insert(pick);
            return Ok(pick);
        }
    }
    bail!("no free loopback port found between {FIRST_PORT} and {}", FIRST_PORT + PORTS)
}

/// True if something accepts connections there.
pub fn accepts(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
}

/// Polls until `ready` says so. An error from `ready` (the process is gone, say) ends the wait at once.
///
/// # Errors
/// `ready`'s own, or that the bound passed, naming `what`.
pub fn wait_until(what: &str, bound: Duration, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    loop {
        if ready()? {
            return Ok(());
        }
        if started.elapsed() >= bound {
            bail!("{what}: not after {} s", bound.as_secs());
        }
        thread::sleep(Duration::from_millis(25));
    }
}

/// Sixteen random hexadecimal digits for names, not for secrets.
pub fn random_u64() -> u64 {
    RandomState::new().hash_one(Instant::now())
}

/// A random password: 32 bytes of the kernel's, in hexadecimal.
///
/// # Errors
/// When `/dev/urandom` cannot be read.
pub fn random_password() -> Result<String> {
    use std::io::Read;
    let mut bytes = [0u8; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
