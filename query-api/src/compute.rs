//! Making an answer from the view store, in one consistent read.

use std::collections::BTreeSet;

use domain::Timestamp;
use ports::{Clock, Error, ModelHead, ModelSpec, Result, ViewStore};

use crate::entry::{Dep, Entry};
use crate::feed::Life;
use crate::query::{Body, Query};

/// Rows and heads are from one moment; an entry marked `absent` when there is no such thing.
pub(crate) async fn compute(views: &dyn ViewStore, clock: &dyn Clock, query: &dyn Query) -> Result<Entry> {
    let mut snapshot = views.snapshot().await?;
    let mut heads = Vec::with_capacity(query.models().len());
    for spec in query.models() {
        heads.push((*spec, snapshot.head(spec.name).await?));
    }
    let now: Timestamp = clock.now();
    let body = query.run(&mut *snapshot, now).await?;
    drop(snapshot);
    let Some(body) = body else {
        let deps = heads.into_iter().map(|(spec, head)| dep(spec, head, Vec::new())).collect();
        let mut entry = Entry::new(deps, now, Some(now), Body::CONTENT_TYPE, "".into());
        entry.absent = true;
        return Ok(entry);
    };
    let deps = deps(heads, &body)?;
    let mut entry = Entry::new(deps, now, body.valid_until, Body::CONTENT_TYPE, body.bytes);
    entry.next_cursor = body.next_cursor;
    Ok(entry)
}

fn deps(heads: Vec<(&'static ModelSpec, ModelHead)>, body: &Body) -> Result<Vec<Dep>> {
    if let Some(foreign) = body.tags.iter().find(|tag| heads.iter().all(|(spec, _)| spec.name != tag.model)) {
        return Err(Error::corrupt(format!("an answer depends on {}, which its query does not name", foreign.model)));
    }
    Ok(heads
        .into_iter()
        .map(|(spec, head)| {
            let tags: BTreeSet<&String> =
                body.tags.iter().filter(|tag| tag.model == spec.name).map(|tag| &tag.tag).collect();
            dep(spec, head, tags.into_iter().cloned().collect())
        })
        .collect())
}

fn dep(spec: &ModelSpec, head: ModelHead, tags: Vec<String>) -> Dep {
    Dep {
        model: spec.name.to_owned(),
        context: spec.context,
        life: Life { generation: head.generation, term: head.term },
        revision: head.revision,
        checkpoint: head.checkpoint,
        tags,
    }
}
