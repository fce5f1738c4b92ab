//! The change feed.

use super::{lead, put, step};
use crate::{ViewStore, conformance_spec};

pub async fn the_feed_is_dense_and_read_in_chunks(views: &dyn ViewStore) {
    let spec = conformance_spec!("feed");
    let claim = lead(views, spec).await;
    for number in 0..10 {
        let mut batch = step(spec, &claim, number, vec![put("a", number as i64, None, None)]);
        batch.tags.insert(format!("list:{number} \"quoted\", {{braced}}"));
        views.apply(&batch).await.expect("applied");
    }
    let mut seen = Vec::new();
    loop {
        let chunk = views.changes(spec.name, claim.generation, seen.len() as u64, 3).await.expect("changes");
        if chunk.is_empty() {
            break;
        }
        assert!(chunk.len() <= 3);
        seen.extend(chunk);
    }
    assert_eq!(seen.iter().map(|change| change.revision).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    let mut tags = seen[3].tags.clone();
    tags.sort();
    assert_eq!(tags, ["feed:a", "list:3 \"quoted\", {braced}"]);
    assert!(views.changes(spec.name, claim.generation + 1, 0, 10).await.expect("another generation").is_empty());
    assert!(views.changes("unheard_of", 1, 0, 10).await.expect("another model").is_empty());
}
