//! A proxy before a server, that counts bytes, and cuts connections or lets them hang.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::Result;

/// Passes so many bytes, over all connections and both ways; what comes then is cut, or hangs until it is let go and is cut then.
pub struct Proxy {
    pub address: String,
    budget: Arc<Budget>,
    allowed: AtomicI64,
}

struct Budget {
    left: AtomicI64,
    hanging: Mutex<Hanging>,
    let_go: Condvar,
}

#[derive(Default)]
struct Hanging {
    /// Instead of cutting.
    is_wanted: bool,
    /// Ways that hang.
    count: usize,
}

impl Proxy {
    pub fn start(server: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let budget = Budget { left: AtomicI64::new(i64::MAX), hanging: Mutex::default(), let_go: Condvar::new() };
        let budget = Arc::new(budget);
        let (server, shared) = (server.to_owned(), budget.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(upstream) = TcpStream::connect(&server) else { continue };
                let pair = (client.try_clone(), upstream.try_clone());
                let (Ok(client_in), Ok(upstream_out)) = pair else { continue };
                let (there, back) = (shared.clone(), shared.clone());
                thread::spawn(move || carry(client_in, upstream_out, &there));
                thread::spawn(move || carry(upstream, client, &back));
            }
        });
        Ok(Self { address, budget, allowed: AtomicI64::new(i64::MAX) })
    }

    /// From now on so many bytes.
    pub fn allow(&self, bytes: i64) {
        self.allowed.store(bytes, Ordering::SeqCst);
        self.budget.left.store(bytes, Ordering::SeqCst);
    }

    pub fn passed(&self) -> i64 {
        self.allowed.load(Ordering::SeqCst) - self.budget.left.load(Ordering::SeqCst)
    }

    /// After so many bytes from now on nothing is answered any more.
    pub fn hang_after(&self, bytes: i64) {
        self.budget.hanging().is_wanted = true;
        self.allow(bytes);
    }

    pub fn is_hanging(&self) -> bool {
        self.budget.hanging().count > 0
    }

    /// What hangs is cut; what connects from now on is not.
    pub fn let_go(&self) {
        self.budget.hanging().is_wanted = false;
        self.allow(i64::MAX);
        self.budget.let_go.notify_all();
    }
}

impl Budget {
    fn hanging(&self) -> MutexGuard<'_, Hanging> {
        self.hanging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Spends bytes. Where there are none left it answers false: at once, or when it has hung for long enough.
    fn spend(&self, count: i64) -> bool {
        if self.left.fetch_sub(count, Ordering::SeqCst) >= count {
            return true;
        }
        let mut hanging = self.hanging();
        hanging.count += 1;
        let let_go = self.let_go.wait_while(hanging, |hanging| hanging.is_wanted);
        let_go.unwrap_or_else(PoisonError::into_inner).count -= 1;
        false
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, budget: &Budget) {
    let mut bytes = [0; 4096];
    while let Ok(count) = from.read(&mut bytes) {
        if count == 0 || !budget.spend(count as i64) || to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
