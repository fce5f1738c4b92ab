//! Commands with an idempotency key that this process is working on: a duplicate waits for the first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

/// How long a duplicate waits before it is answered 409 (interfaces.md: 2 s).
const DUPLICATE_WAIT: Duration = Duration::from_secs(2);

type Keys = Arc<Mutex<HashMap<(String, String), Arc<Notify>>>>;

#[derive(Clone, Default)]
pub struct InFlight(Keys);

/// Held while a key is worked on; dropping it lets duplicates go on.
pub struct Guard {
    keys: Keys,
    key: (String, String),
}

impl InFlight {
    /// `None` when another command held the key for the whole wait.
    pub async fn enter(&self, scope: &str, key: &str) -> Option<Guard> {
        let key = (scope.to_owned(), key.to_owned());
        let deadline = tokio::time::Instant::now() + DUPLICATE_WAIT;
        loop {
            let other = {
                let mut keys = self.0.lock().expect("nothing panics under this lock");
                match keys.get(&key) {
                    Some(other) => other.clone(),
                    None => {
                        keys.insert(key.clone(), Arc::new(Notify::new()));
                        return Some(Guard { keys: self.0.clone(), key });
                    }
                }
            };
            let notified = other.notified();
            let still_held = self.0.lock().expect("nothing panics under this lock").contains_key(&key);
            if still_held && tokio::time::timeout_at(deadline, notified).await.is_err() {
                return None;
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(notify) = self.keys.lock().expect("nothing panics under this lock").remove(&self.key) {
            notify.notify_waiters();
        }
    }
}
