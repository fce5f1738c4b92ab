//! Consistent reads.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{lead, put, step};
use crate::{OrderBy, Row, Select, ViewStore, conformance_spec, document};

pub async fn a_snapshot_stays_at_its_moment(views: &dyn ViewStore) {
    let spec = conformance_spec!("frozen");
    let claim = lead(views, spec).await;
    views.apply(&step(spec, &claim, 0, vec![put("a", 1, None, None)])).await.expect("applied");
    let mut snapshot = views.snapshot().await.expect("a snapshot");
    assert_eq!(snapshot.head("frozen").await.expect("a head").revision, 1);
    views.apply(&step(spec, &claim, 1, vec![put("a", 2, None, None), put("b", 2, None, None)])).await.expect("applied");

    assert_eq!(snapshot.head("frozen").await.expect("a head").revision, 1);
    let doc = snapshot.get("frozen", "a").await.expect("read").expect("a row");
    assert_eq!(document::<Value>("frozen", "a", &doc).expect("JSON")["number"], json!(1));
    assert_eq!(snapshot.get("frozen", "b").await.expect("read"), None);
    drop(snapshot);
    let mut fresh = views.snapshot().await.expect("a snapshot");
    let doc = fresh.get("frozen", "a").await.expect("read").expect("a row");
    assert_eq!(document::<Value>("frozen", "a", &doc).expect("JSON")["number"], json!(2));
}

/// A writer sets all rows of the model to the same number, again and again; no snapshot may see two numbers, or rows that
/// do not belong to its head.
pub async fn a_snapshot_never_mixes_steps(views: Arc<dyn ViewStore>) {
    const STEPS: u64 = 60;
    let spec = conformance_spec!("mixed");
    let claim = lead(views.as_ref(), spec).await;
    let (done, writing) = watch::channel(false);
    let writer = {
        let views = views.clone();
        tokio::spawn(async move {
            for number in 0..STEPS {
                let changes = (0..20).map(|key| put(&format!("row-{key}"), number as i64 + 1, None, None)).collect();
                views.apply(&step(spec, &claim, number, changes)).await.expect("applied");
            }
            drop(done);
        })
    };
    let all = Select { model: "mixed", filters: vec![], order: OrderBy::KEY, after: None, limit: 100 };
    let mut seen = 0;
    while writing.has_changed().is_ok() || seen < STEPS {
        let mut snapshot = views.snapshot().await.expect("a snapshot");
        // The head is read after the rows: only one moment makes them agree.
        let rows = snapshot.select(&all).await.expect("rows");
        let head = snapshot.head("mixed").await.expect("a head");
        let number = |row: &Row| row.read::<Value>("mixed").expect("JSON")["number"].clone();
        assert!(rows.iter().all(|row| number(row) == json!(head.revision)), "revision {}: {rows:?}", head.revision);
        assert_eq!(head.checkpoint.position, head.revision);
        assert!(head.revision >= seen, "time does not run backwards");
        seen = head.revision;
        tokio::task::yield_now().await;
    }
    writer.await.expect("no panic");
}
