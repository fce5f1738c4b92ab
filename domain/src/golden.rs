//! The golden files: what each version of each event looks like in a log, for as long as there are logs.
//!
//! `golden/KIND/TYPE.vVERSION.jsonl`, one opened payload a line. Lines are added; none is ever changed or deleted, for somebody has
//! it in a log. A new version gets a file of its own and a step in `upcast`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{Aggregate, AggregateKind, Decide, DomainEvent, Fact, upcast, with_aggregate};

#[test]
fn every_version_of_every_event_that_was_ever_stored_is_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    for kind in AggregateKind::ALL {
        with_aggregate!(*kind, A => {
            let files = read::<A>(&root.join(kind.as_str()));
            let events = <<A as Aggregate>::Event>::NAMES.iter().zip(<<A as Aggregate>::Event>::VERSIONS);
            for (event_type, version) in events {
                let newest: u32 = version.parse().expect("versions count from 1");
                for version in 1..=newest {
                    let file = (event_type.to_string(), version.to_string());
                    assert!(files.contains(&file), "golden/{}/{event_type}.v{version}.jsonl is missing", kind.as_str());
                }
            }
        });
    }
    let kinds: BTreeSet<String> = names(&root).collect();
    let known: BTreeSet<String> = AggregateKind::ALL.iter().map(|kind| kind.as_str().to_owned()).collect();
    assert_eq!(kinds, known, "a folder an aggregate");
}

fn names(folder: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
}

/// Reads every line of every file; answers the types and versions that there are.
fn read<A: Decide>(folder: &Path) -> BTreeSet<(String, String)>
where
    A::Event: Fact,
{
    let mut files = BTreeSet::new();
    for name in names(folder) {
        let (event_type, version) =
            name.strip_suffix(".jsonl").and_then(|name| name.split_once(".v")).unwrap_or_else(|| panic!("{name}?"));
        let text = fs::read_to_string(folder.join(&name)).expect("a golden file");
        assert!(!text.trim().is_empty(), "{name} has no line");
        for line in text.lines() {
            check::<A>(event_type, version, line);
        }
        files.insert((event_type.to_owned(), version.to_owned()));
    }
    files
}

fn check<A: Decide>(event_type: &str, version: &str, line: &str)
where
    A::Event: Fact,
{
    let stored: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(stored[event_type].is_object(), "{line}: the body stands under the event type");
    let mut today = stored.clone();
    let reached = upcast(A::KIND, event_type, version, &mut today);
    let event: A::Event = serde_json::from_value(today).unwrap_or_else(|error| panic!("{line}: {error}"));
    assert_eq!((event.event_type().as_str(), event.event_version().as_str()), (event_type, reached), "{line}");
    if reached == version {
        assert_eq!(serde_json::to_value(&event).expect("an event encodes"), stored, "stored as it was");
        assert_eq!(
            event.subject().is_some(),
            stored[event_type].get("personal").is_some(),
            "{line}: sealed exactly when personal"
        );
    }
}
