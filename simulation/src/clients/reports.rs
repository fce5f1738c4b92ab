//! Reports, ordered by impatient people.

use std::sync::Arc;

use commands::step;
use domain::reports::{NewReport, Report, ReportCommand, ReportFormat, ReportKind, ReportParams};
use domain::{Context, ReportId, UserId};
use jiff::civil::date;
use rand::Rng;
use uuid::Uuid;

use super::{insist, pause, uuid};
use crate::world::World;

/// Orders one report.
pub async fn order(world: Arc<World>, index: usize) {
    let mut rng = world.fate.rng_for(&format!("order {index}"));
    pause(&mut rng, 1, world.plan.lasts_ms).await;
    let kind = ReportKind::ALL[rng.random_range(0..ReportKind::ALL.len())];
    let id = uuid(&mut rng);
    let position = world.head(kind.context()).await;
    let command = ReportCommand::RequestReport(NewReport {
        report_id: ReportId(id),
        kind,
        params: ReportParams::default(),
        format: ReportFormat::Json,
        positions: [(kind.context(), position), (Context::Legal, world.head(Context::Legal).await)].into(),
        as_of: date(2026, 3, 2),
        requested_by: UserId(Uuid::nil()),
    });
    let told = insist(&world, &mut rng, &format!("r{index}"), || step::<Report>(id.to_string(), command.clone())).await;
    if !matches!(told, super::Told::Done(_)) {
        world.violation(format!("the order of report {id} was answered {told:?}"));
    }
    if rng.random_bool(0.1) {
        let key = format!("x{index}");
        insist(&world, &mut rng, &key, || step::<Report>(id.to_string(), ReportCommand::CancelReport)).await;
    }
}
