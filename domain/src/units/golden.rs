//! The stored shape of every event of this context.

use super::{PropertyEvent, UnitEvent};
use crate::testing::golden;

#[test]
fn the_stored_property_events_keep_their_shape() {
    golden::<PropertyEvent>(
        PropertyEvent::NAMES,
        &[
            r#"{"PropertyRegistered":{"property_id":"00000000-0000-0000-0000-000000000001","name":"Palm Court","type":"apartment_building","address":{"line1":"1 Palm Ave","line2":"Tower B","city":"San Diego","region":"CA","postal_code":"92101","country":"US"},"time_zone":"America/Los_Angeles","currency":"USD","jurisdiction":"US-CA","owners":[{"party_id":"00000000-0000-0000-0000-000000000002","share_bp":10000}]}}"#,
            r#"{"OwnersAssigned":{"owners":[{"party_id":"00000000-0000-0000-0000-000000000002","share_bp":10000}],"effective_on":"2025-02-01"}}"#,
            r#"{"PropertyInactivated":{}}"#,
            r#"{"UnitNumberClaimed":{"unit_id":"00000000-0000-0000-0000-000000000003","unit_number":"4B"}}"#,
            r#"{"UnitNumberReleased":{"unit_id":"00000000-0000-0000-0000-000000000003","unit_number":"4B"}}"#,
            r#"{"UnitRetirementNoted":{"unit_id":"00000000-0000-0000-0000-000000000003"}}"#,
            r#"{"UnitReinstatementNoted":{"unit_id":"00000000-0000-0000-0000-000000000003"}}"#,
        ],
    );
}

#[test]
fn the_stored_unit_events_keep_their_shape() {
    golden::<UnitEvent>(
        UnitEvent::NAMES,
        &[
            r#"{"UnitAdded":{"property":{"property_id":"00000000-0000-0000-0000-000000000001","property_name":"Palm Court","city":"San Diego","region":"CA","country":"US","time_zone":"America/Los_Angeles","currency":"USD","jurisdiction":"US-CA"},"unit_number":"4B","bedrooms":2,"bathrooms_x2":3,"area_m2":80,"amenities":["balcony","pool"]}}"#,
            r#"{"UnitUpdated":{"bedrooms":3}}"#,
            r#"{"UnitUpdated":{"unit_number":"4C","bedrooms":3,"bathrooms_x2":4,"area_m2":81,"amenities":[]}}"#,
            r#"{"UnitListed":{"price":{"amount":150000,"currency":"USD"},"deposit":{"amount":150000,"currency":"USD"},"available_from":"2025-01-15","min_term_months":12}}"#,
            r#"{"UnitUnlisted":{}}"#,
            r#"{"ListingPriceChanged":{"price":{"amount":160000,"currency":"USD"},"effective_on":"2025-02-01"}}"#,
            r#"{"HoldPlaced":{"hold_id":"00000000-0000-0000-0000-000000000004","party_id":"00000000-0000-0000-0000-000000000002","from":"2025-01-15","to":"2026-01-15","expires_at":"2025-01-03T12:00:00Z"}}"#,
            r#"{"HoldReleased":{"hold_id":"00000000-0000-0000-0000-000000000004"}}"#,
            r#"{"HoldExpired":{"hold_id":"00000000-0000-0000-0000-000000000004","expires_at":"2025-01-03T12:00:00Z"}}"#,
            r#"{"UnitReserved":{"lease_id":"00000000-0000-0000-0000-000000000005","from":"2025-01-15","to":"2026-01-15","consumed_holds":["00000000-0000-0000-0000-000000000004"]}}"#,
            r#"{"UnitReserved":{"lease_id":"00000000-0000-0000-0000-000000000005","from":"2025-01-15","to":null,"consumed_holds":[]}}"#,
            r#"{"ReservationReleased":{"lease_id":"00000000-0000-0000-0000-000000000005"}}"#,
            r#"{"OccupancyStarted":{"lease_id":"00000000-0000-0000-0000-000000000005","on":"2025-01-16","from":"2025-01-15","to":"2026-01-15"}}"#,
            r#"{"VacancyScheduled":{"lease_id":"00000000-0000-0000-0000-000000000005","on":"2025-07-01"}}"#,
            r#"{"VacancyCancelled":{"lease_id":"00000000-0000-0000-0000-000000000005","to":"2026-01-15"}}"#,
            r#"{"OccupancyExtended":{"lease_id":"00000000-0000-0000-0000-000000000005","to":"2027-01-15"}}"#,
            r#"{"OccupancyEnded":{"lease_id":"00000000-0000-0000-0000-000000000005","on":"2025-07-01","to":"2025-07-01"}}"#,
            r#"{"UnitBlocked":{"block_id":"00000000-0000-0000-0000-000000000006","from":"2025-03-01","to":"2025-03-10","reason":"new floor","request_id":"00000000-0000-0000-0000-000000000007"}}"#,
            r#"{"BlockEnded":{"block_id":"00000000-0000-0000-0000-000000000006","on":"2025-03-05"}}"#,
            r#"{"UnitRetired":{"reason":"sold","on":"2025-12-31"}}"#,
            r#"{"UnitReinstated":{}}"#,
        ],
    );
}
