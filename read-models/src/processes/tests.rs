use domain::RefusalClass;
use domain::legal::{LeaseProcess, ProcessCommand};

use super::*;
use crate::testing::stories::Story;

const AT: &str = "2025-01-10T12:00:00Z";

fn lease_id(n: u128) -> LeaseId {
    LeaseId(Uuid::from_u128(n))
}

fn stuck(n: u128) -> ProcessCommand {
    ProcessCommand::MarkStuck {
        lease_id: lease_id(n),
        trigger: Uuid::from_u128(50),
        step: ProcessStep::ReserveUnit,
        reason: "units is not reachable".into(),
        attempts: 5,
    }
}

fn record(n: u128, outcome: StepOutcome) -> ProcessCommand {
    let (lease_id, trigger) = (lease_id(n), Uuid::from_u128(50));
    ProcessCommand::RecordStep { lease_id, trigger, step: ProcessStep::ReserveUnit, outcome }
}

#[tokio::test]
async fn a_stuck_process_is_visible_until_its_step_has_an_outcome() {
    let mut story = Story::default();
    story.run::<LeaseProcess>(lease_id(1), AT, stuck(1));
    story.run::<LeaseProcess>(lease_id(2), AT, record(2, StepOutcome::Done));
    let list = |stuck| {
        let mut shelf = story.shelf(&[&Processes]);
        async move { processes(&mut shelf, stuck, &PageRequest::default()).await.expect("an answer").value.data }
    };
    assert_eq!(list(None).await.len(), 2);
    let waiting = list(Some(true)).await;
    assert_eq!(waiting.len(), 1);
    let shown = serde_json::to_value(&waiting[0]).expect("json");
    assert_eq!(shown["stuck"]["step"], "reserve_unit");
    assert_eq!(shown["stuck"]["attempts"], 5);

    let refusal = Refusal::new(RefusalClass::Conflict, "UNIT_NOT_AVAILABLE", "taken");
    story.run::<LeaseProcess>(lease_id(1), AT, record(1, StepOutcome::Refused(refusal)));
    let mut shelf = story.shelf(&[&Processes]);
    let process = process(&mut shelf, lease_id(1)).await.expect("an answer").value.expect("the process");
    assert_eq!(process.stuck, None);
    assert_eq!(process.steps[0].status, StepStatus::Refused);
    assert_eq!(super::process(&mut shelf, lease_id(3)).await.expect("an answer").value, None);
}
