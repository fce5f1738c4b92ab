//! Checkpoints and leadership of followers.

use uuid::Uuid;

use crate::{Checkpoint, Error, EventLog, Position};

fn name() -> String {
    format!("policy-{}", Uuid::now_v7())
}

fn at(position: Position) -> Checkpoint {
    Checkpoint { incarnation: Uuid::from_u128(7), position, event_id: (position > 0).then(Uuid::now_v7) }
}

pub async fn a_follower_starts_without_a_checkpoint(log: &dyn EventLog) {
    let name = name();
    assert_eq!(log.follower_checkpoint(&name).await.expect("read"), None);
    log.claim_follower(&name).await.expect("claimed").expect("free");
    assert_eq!(log.follower_checkpoint(&name).await.expect("read"), None);
}

pub async fn a_checkpoint_moves_only_from_where_it_stands(log: &dyn EventLog) {
    let name = name();
    let term = log.claim_follower(&name).await.expect("claimed").expect("free");
    log.advance_follower(&name, term, None, &at(0)).await.expect("advanced");
    let five = at(5);
    log.advance_follower(&name, term, Some(0), &five).await.expect("advanced");
    assert_eq!(log.follower_checkpoint(&name).await.expect("read"), Some(five.clone()));
    for from in [None, Some(0), Some(4), Some(6)] {
        let answer = log.advance_follower(&name, term, from, &at(9)).await;
        assert!(matches!(answer, Err(Error::Conflict(_))), "{from:?}: {answer:?}");
    }
    assert_eq!(log.follower_checkpoint(&name).await.expect("read"), Some(five));
    let unclaimed = log.advance_follower(&self::name(), 0, None, &at(1)).await;
    assert!(matches!(unclaimed, Err(Error::Conflict(_))), "{unclaimed:?}");
}

pub async fn a_new_claim_deposes_the_old_leader(log: &dyn EventLog) {
    let name = name();
    let old = log.claim_follower(&name).await.expect("claimed").expect("free");
    log.advance_follower(&name, old, None, &at(3)).await.expect("advanced");
    let new = log.claim_follower(&name).await.expect("claimed").expect("free");
    assert!(new > old);
    let answer = log.advance_follower(&name, old, Some(3), &at(4)).await;
    assert!(matches!(answer, Err(Error::Conflict(_))), "{answer:?}");
    log.advance_follower(&name, new, Some(3), &at(4)).await.expect("advanced");
    let other = log.claim_follower(&self::name()).await.expect("claimed");
    assert_eq!(other, Some(1), "terms are counted for each follower");
}

pub async fn every_checkpoint_is_listed_by_name(log: &dyn EventLog) {
    let names = [name(), name(), name()];
    for (name, position) in names.iter().zip([4, 0]) {
        let term = log.claim_follower(name).await.expect("claimed").expect("free");
        log.advance_follower(name, term, None, &at(position)).await.expect("advanced");
    }
    log.claim_follower(&names[2]).await.expect("claimed").expect("free");
    let all = log.follower_checkpoints().await.expect("read");
    assert!(all.is_sorted_by_key(|(name, _)| name.clone()), "{all:?}");
    for (name, listed) in names.iter().zip([true, true, false]) {
        let found = all.iter().find(|(other, _)| other == name).map(|(_, checkpoint)| checkpoint.clone());
        assert_eq!(found.is_some(), listed, "one that never had a checkpoint is not listed");
        assert_eq!(found, log.follower_checkpoint(name).await.expect("read"));
    }
}
