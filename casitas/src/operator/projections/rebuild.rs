//! `casitas projections rebuild` and `diff`.

use std::time::Duration;

use anyhow::Result;
use ports::{Standing, StoredRow};
use projector::{Comparison, Difference, Done, Outcome, Phase, Progress, Seen, Wish};
use read_models::ReadModel;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::{Operator, Refusal, Rows};
use super::refusal;
use crate::exit;

const PROGRESS_PERIOD: Duration = Duration::from_millis(250);
/// The result of whatever made other rows live.
pub(super) const SWITCHED: &str = "switched";

impl Operator {
    /// One after the other. A difference of one does not keep the next from being rebuilt; the exit code tells of it.
    pub(super) async fn rebuild(&self, models: &[&'static dyn ReadModel], wish: Wish, rows: &Rows) -> Result<u8> {
        let mut worst = None;
        for model in models {
            let done = self.rebuild_one(*model, wish.clone(), rows).await?;
            let (result, differs) = match done.outcome {
                Outcome::Switched(_) => (SWITCHED, false),
                Outcome::Ready => ("ready", false),
                Outcome::Refused => ("refused", true),
                Outcome::Dropped if !done.comparison.was_made() => ("not compared", true),
                Outcome::Dropped if done.comparison.is_equal() => ("equal", false),
                Outcome::Dropped => ("different", true),
            };
            let mut row = result_row(*model, result, &done.comparison);
            row["events"] = json!(done.events);
            row["parked"] = json!(done.parked);
            rows.send(row).await?;
            if differs {
                let why = match done.outcome {
                    Outcome::Dropped => found_by_trial(*model, &done.comparison),
                    _ => differs_from_live(*model, &done.comparison),
                };
                worst.get_or_insert(why);
            }
        }
        match worst {
            None => Ok(exit::OK),
            Some(why) => Err(why.into()),
        }
    }

    pub(in crate::operator) async fn rebuild_one(
        &self,
        model: &'static dyn ReadModel,
        wish: Wish,
        rows: &Rows,
    ) -> Result<Done> {
        let (progress, stop) = (Progress::default(), CancellationToken::new());
        let rebuilder = self.rebuilder()?;
        let work = rebuilder.rebuild(model, wish, &progress, &stop);
        tokio::pin!(work);
        let began = Instant::now();
        let mut ticks = tokio::time::interval_at(began + PROGRESS_PERIOD, PROGRESS_PERIOD);
        loop {
            tokio::select! {
                done = &mut work => return done.map_err(refusal),
                _ = ticks.tick() => drop(rows.try_send(progress_row(&progress.seen(), began.elapsed()))),
                // Nobody waits for it any more: it stays as it is, for the next who asks.
                () = rows.closed(), if !stop.is_cancelled() => stop.cancel(),
            }
        }
    }

    pub(super) async fn diff(&self, model: &'static dyn ReadModel, limit: usize, rows: &Rows) -> Result<u8> {
        let (rebuilder, name) = (self.rebuilder()?, model.spec().name);
        let mut found = rebuilder.standing(model, Standing::Ready).await.map_err(refusal)?;
        if found.is_none() {
            found = rebuilder.standing(model, Standing::Standby).await.map_err(refusal)?;
        }
        let Some(found) = found else {
            let message = format!(
                "{name} has no other generation to compare with: `casitas projections rebuild {name} --switch manual` makes one"
            );
            return Err(Refusal::new(exit::NOT_FOUND, message).into());
        };
        let mut shown: Vec<Value> = Vec::new();
        let mut tell = |difference: Difference| {
            if shown.len() < limit {
                shown.push(difference_row(&difference));
            }
        };
        let comparison = rebuilder.compare(model, found.head.generation, &mut tell).await.map_err(refusal)?;
        for row in shown {
            rows.send(row).await?;
        }
        if comparison.is_equal() {
            rows.send(result_row(model, "equal", &comparison)).await?;
            return Ok(exit::OK);
        }
        Err(Refusal::new(exit::CHECK_FAILED, told(model, &comparison)).into())
    }
}

/// What the client shows as a bar, a line, or as it is.
fn progress_row(seen: &Seen, took: Duration) -> Value {
    let seconds = took.as_secs_f64().max(0.001);
    let rate = seen.events as f64 / seconds;
    let left = (seen.phase == Phase::Replay && seen.done > 0 && seen.passes <= 1)
        .then(|| seconds * seen.total.saturating_sub(seen.done) as f64 / seen.done as f64);
    json!({"progress": {
        "name": seen.model,
        "generation": seen.generation,
        "phase": seen.phase,
        "done": seen.done,
        "total": seen.total,
        "events": seen.events,
        "rows": seen.rows,
        "pass": seen.passes,
        "events_per_second": rate.round(),
        "eta_seconds": left.map(|left| (left * 10.0).round() / 10.0),
    }})
}

pub(super) fn result_row(model: &dyn ReadModel, result: &str, comparison: &Comparison) -> Value {
    let name = model.spec().name;
    let mut row = json!({
        "name": name,
        "result": result,
        "generation": comparison.generation,
        "position": comparison.position,
        "rows": comparison.rows,
        "equal": comparison.equal,
        "differ": comparison.differ,
        "missing": comparison.missing,
        "extra": comparison.extra,
        "digest": comparison.digest,
        "live_digest": comparison.live_digest,
    });
    if result == SWITCHED && !comparison.is_equal() {
        row["next"] = json!(format!(
            "casitas projections drop {name}, once the new rows are right: until then the old ones are on standby, for \
             `casitas projections rollback {name}`"
        ));
    }
    row
}

pub(in crate::operator) fn told(model: &dyn ReadModel, comparison: &Comparison) -> String {
    let Comparison { rows, equal, differ, missing, extra, .. } = comparison;
    format!("{}: {rows} rows: {equal} equal, {differ} differ, {missing} missing, {extra} extra", model.spec().name)
}

pub(super) fn differs_from_live(model: &dyn ReadModel, comparison: &Comparison) -> Refusal {
    let name = model.spec().name;
    let message = format!(
        "{}; the fold is the same, so it was not switched. `casitas projections diff {name}` shows them, \
         `casitas projections switch {name} --force` takes the rebuilt rows (`casitas projections rebuild {name} --force` takes \
         the same, while they are ready), `casitas projections abort {name}` drops them",
        told(model, comparison)
    );
    Refusal::new(exit::CHECK_FAILED, message)
}

fn found_by_trial(model: &dyn ReadModel, comparison: &Comparison) -> Refusal {
    let name = model.spec().name;
    let message = match comparison.was_made() {
        true => format!(
            "{}; nothing was changed. `casitas projections rebuild {name}` leaves such rows ready for `casitas projections diff \
             {name}`; with --force it replaces the live ones",
            told(model, comparison)
        ),
        false => format!(
            "the live rows of {name} are of another life of the log, so nothing was compared. `casitas projections rebuild {name}` \
             replaces them"
        ),
    };
    Refusal::new(exit::CHECK_FAILED, message)
}

fn difference_row(difference: &Difference) -> Value {
    let side = |row: &Option<StoredRow>| match row {
        Some(row) => serde_json::from_str(&row.doc).unwrap_or_else(|_| json!(format!("no JSON, {} bytes", row.doc.len()))),
        None => Value::Null,
    };
    let (mut live, mut rebuilt) = (side(&difference.live), side(&difference.rebuilt));
    mask(&mut live, &mut rebuilt);
    json!({
        "key": difference.key,
        "difference": difference.kind.as_str(),
        "live": live,
        "rebuilt": rebuilt,
    })
}

/// What rows say of a person is not for whoever compares them: only whether it differs.
fn mask(live: &mut Value, rebuilt: &mut Value) {
    const FIELD: &str = "personal";
    let text = if live.get(FIELD) == rebuilt.get(FIELD) { "masked" } else { "masked, differs" };
    for row in [live, rebuilt] {
        if let Some(value) = row.get_mut(FIELD).filter(|value| !value.is_null()) {
            *value = json!(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use projector::DifferenceKind;

    use super::*;

    #[test]
    fn a_difference_tells_nothing_of_a_person() {
        let row = |text: &str| Some(StoredRow { key: "a".into(), doc: text.into(), fields: vec![] });
        let shown = |live, rebuilt| {
            let kind = DifferenceKind::Differs;
            difference_row(&Difference { key: "a".into(), kind, live, rebuilt })
        };
        let ana = row(r#"{"version": 1, "personal": {"emails": ["ana@example.org"]}}"#);
        let other = shown(ana.clone(), row(r#"{"version": 1, "personal": null}"#));
        assert_eq!(other["live"], json!({"version": 1, "personal": "masked, differs"}));
        assert_eq!(other["rebuilt"], json!({"version": 1, "personal": null}));
        let same = shown(ana, row(r#"{"version": 2, "personal": {"emails": ["ana@example.org"]}}"#));
        assert_eq!(same["live"]["personal"], "masked");
        assert_eq!((&same["live"]["version"], &same["rebuilt"]["version"]), (&json!(1), &json!(2)));
    }
}
