//! Every port with the scheduler in front of it.

mod cache;
mod hints;
mod log;
mod queue;
mod shelf;
mod views;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

pub use cache::{CacheStore, SimCache};
pub use hints::SimHints;
pub use log::{LogStore, SimLog};
pub use queue::{QueueStore, SimQueue};
pub use shelf::{Shelf, SimShelf};
pub use views::{SimViews, ViewsStore};

use crate::fate::{Fate, Proc};

/// A server that is broken on purpose, to show that the oracles see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// The log says committed and stores nothing.
    AckBeforeStore,
    /// The log stores a command twice.
    StoreTwice,
    /// The log does not compare versions.
    NoVersionCheck,
    /// The log forgets idempotency keys.
    NoKeys,
    /// The shared cache claims that what it kept is newer than it is.
    ForgedRevision,
    /// The view store's heads stand still.
    FrozenHeads,
    /// A batch moves the checkpoint and leaves its rows behind.
    CheckpointWithoutRows,
    /// A follower's checkpoint is stored further than it has got.
    CheckpointAhead,
    /// The queue acks what it hands out and says that it has it still.
    AckBeforeWork,
}

/// Who holds which leadership: an advisory lock that lives as long as its process, or until its connection is lost.
#[derive(Default)]
pub struct Claims(Mutex<BTreeMap<String, Arc<Proc>>>);

impl Claims {
    /// Whether this process may lead now.
    fn take(&self, fate: &Fate, name: &str, proc: &Arc<Proc>) -> bool {
        let mut holders = self.0.lock().expect("nothing panics under this lock");
        let held = holders.get(name).is_some_and(|holder| holder.id != proc.id && !holder.is_dead());
        // A lost connection gives the lock away while its holder believes to lead.
        if held && (fate.is_calm() || !fate.chance(0.15)) {
            return false;
        }
        if held {
            fate.count("leader deposed");
        }
        holders.insert(name.to_owned(), proc.clone());
        true
    }
}
