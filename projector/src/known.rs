//! Which events this build can read. Readers deploy before writers: an event from a newer build stops a follower, it is never
//! passed over, whether or not the follower would have looked at it.

use domain::{Aggregate, is_readable, with_aggregate};
use ports::Recorded;

/// `upgrade required` for an event type or version that this build does not know.
pub(crate) fn check(event: &Recorded) -> Result<(), String> {
    let (names, versions): (&[&str], &[&str]) = with_aggregate!(event.stream.kind, A => {
        (<<A as Aggregate>::Event>::NAMES, <<A as Aggregate>::Event>::VERSIONS)
    });
    let current = names.iter().position(|name| *name == event.event_type).map(|place| versions[place]);
    let (kind, event_type, version) = (event.stream.kind, &event.event_type, &event.event_version);
    match current.is_some_and(|current| current == version || is_readable(kind, event_type, version, current)) {
        true => Ok(()),
        false => Err(format!("upgrade required: this build does not know {event_type} v{version}")),
    }
}
