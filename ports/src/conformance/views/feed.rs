//! The change feed.

use super::{lead, put, step};
use crate::{Seen, ViewStore, conformance_spec};

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

pub async fn the_news_are_the_heads_with_the_changes_that_were_not_seen(views: &dyn ViewStore) {
    let spec = conformance_spec!("news");
    let claim = lead(views, spec).await;
    for number in 0..3 {
        views.apply(&step(spec, &claim, number, vec![put("a", number as i64, None, None)])).await.expect("applied");
    }
    let told = async |seen: &[Seen]| {
        let news = views.news(seen).await.expect("news");
        let (head, changes) = news.into_iter().find(|(head, _)| head.model == "news").expect("a head");
        assert_eq!(head.revision, 3);
        changes.iter().map(|change| change.revision).collect::<Vec<_>>()
    };
    let seen = |generation, revision| Seen { model: "news".into(), generation, revision };
    assert!(told(&[]).await.is_empty());
    assert_eq!(told(&[seen(claim.generation, 1)]).await, [2, 3]);
    assert!(told(&[seen(claim.generation, 3)]).await.is_empty());
    assert!(told(&[seen(claim.generation, 9)]).await.is_empty(), "ahead of the store");
    assert!(told(&[seen(claim.generation + 1, 1)]).await.is_empty(), "another generation");
    let other = Seen { model: "unheard_of".into(), generation: 1, revision: 0 };
    assert_eq!(told(&[other, seen(claim.generation, 0)]).await, [1, 2, 3]);
    let news = views.news(&[seen(claim.generation, 2)]).await.expect("news");
    let (_, changes) = news.into_iter().find(|(head, _)| head.model == "news").expect("a head");
    let kept = views.changes("news", claim.generation, 2, 10).await.expect("changes");
    assert_eq!(changes, kept, "as the feed has them");
}
