//! The rows as they stand, and the links of the hash chain.

use super::{commit, events, fresh_stream, read_all, request, to};
use crate::{ChainHead, Error, EventLog, StoredEvent};

pub async fn a_scan_tells_every_column_as_it_was_appended(log: &dyn EventLog) {
    let (first, _) = commit(log, &request(vec![to(&fresh_stream(log), 0, events(3))])).await;
    let mut bare = request(vec![to(&fresh_stream(log), 0, events(1))]);
    bare.metadata.causation_id = None;
    bare.metadata.traceparent = None;
    commit(log, &bare).await;
    let after = first - 1;
    let expected: Vec<StoredEvent> = read_all(log, after).await.iter().map(StoredEvent::of).collect();
    assert_eq!(expected.len(), 4);
    assert_eq!(log.scan(after as i64, 100).await.expect("scanned"), expected);
    assert_eq!(log.scan(after as i64, 2).await.expect("scanned"), expected[..2]);
    assert_eq!(log.scan(after as i64 + 4, 100).await.expect("scanned"), []);
    let all = log.scan(i64::MIN, 100_000).await.expect("scanned");
    assert_eq!(all[all.len() - 4..], expected);
}

pub async fn a_link_goes_on_from_one_link_only(log: &dyn EventLog) {
    assert_eq!(log.last_link().await.expect("read"), None, "nothing else seals this log");
    commit(log, &request(vec![to(&fresh_stream(log), 0, events(4))])).await;
    let rows = log.scan(0, 4).await.expect("scanned");
    let mut head = ChainHead::start(log.context());
    let marks = head.extend(log.context(), &rows[..3]).expect("dense");
    log.add_link(0, &head, &marks).await.expect("added");
    for (after, position) in [(0, 2), (0, 4), (1, 3)] {
        let other = ChainHead { position, ..head.clone() };
        let answer = log.add_link(after, &other, &marks).await;
        assert!(matches!(answer, Err(Error::Conflict(_))), "{after}-{position}: {answer:?}");
    }
    let first = head.clone();
    let more = head.extend(log.context(), &rows[3..]).expect("dense");
    log.add_link(3, &head, &more).await.expect("added");
    let links = log.links(0, 10).await.expect("read");
    let told: Vec<_> = links.iter().map(|link| (link.after, &link.head, &link.marks)).collect();
    assert_eq!(told, [(0, &first, &marks), (3, &head, &more)]);
    assert_eq!(log.links(0, 1).await.expect("read"), links[..1]);
    assert_eq!(log.links(3, 10).await.expect("read"), links[1..]);
    assert_eq!(log.last_link().await.expect("read").as_ref(), links.last());
}
