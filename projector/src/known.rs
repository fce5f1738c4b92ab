//! Which events this build can read. Readers deploy before writers: an event from a newer build stops a follower, it is never
//! passed over, whether or not the follower would have looked at it.

use domain::{Aggregate, with_aggregate};
use ports::Recorded;

/// Versions that this build reads, of every event type.
const VERSION: &str = "1";

/// `upgrade required` for an event type or version that this build does not know.
pub(crate) fn check(event: &Recorded) -> Result<(), String> {
    let names: &[&str] = with_aggregate!(event.stream.kind, A => <<A as Aggregate>::Event>::NAMES);
    match names.contains(&event.event_type.as_str()) && event.event_version == VERSION {
        true => Ok(()),
        false => Err(format!("upgrade required: this build does not know {} v{}", event.event_type, event.event_version)),
    }
}
