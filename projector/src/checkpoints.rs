//! Whether a checkpoint still belongs to its log.

use ports::{Checkpoint, EventLog, Result};

/// Compares a checkpoint with the log: the checkpoint to go on from, or why it belongs to another life of the log (it was
/// restored to an earlier moment, or replaced). A checkpoint at 0 has read nothing and fits every log.
pub(crate) async fn verify(log: &dyn EventLog, checkpoint: &Checkpoint) -> Result<Result<Checkpoint, String>> {
    let head = log.head().await?;
    if checkpoint.position == 0 {
        return Ok(Ok(Checkpoint { incarnation: head.incarnation, position: 0, event_id: None }));
    }
    let context = log.context();
    let position = checkpoint.position;
    if checkpoint.incarnation != head.incarnation {
        return Ok(Err(format!(
            "the {context} log has incarnation {}, the checkpoint {position} belongs to {}",
            head.incarnation, checkpoint.incarnation
        )));
    }
    if position > head.position {
        return Ok(Err(format!("the {context} log ends at {}, before the checkpoint {position}", head.position)));
    }
    let found = log.read(position - 1, 1).await?.first().map(|event| event.event_id);
    if found != checkpoint.event_id {
        let id = |id: Option<uuid::Uuid>| id.map_or_else(|| "no event".to_owned(), |id| format!("event {id}"));
        return Ok(Err(format!(
            "the {context} log has {} at {position}, the checkpoint names {}",
            id(found),
            id(checkpoint.event_id)
        )));
    }
    Ok(Ok(checkpoint.clone()))
}
