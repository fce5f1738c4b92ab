//! The commands on one page.

mod auth;
mod documents;
mod holds;
mod leases;
mod ledgers;
mod parties;
mod properties;
mod reports;
mod units;
mod users;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Api;

pub use auth::{LoginIn, TokenOut};

/// Every command route; the OpenAPI document comes with it.
pub fn router(api: Api) -> OpenApiRouter {
    described().with_state(api)
}

/// The routes without their state: for the document.
pub fn described() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(auth::login))
        .routes(routes!(auth::login_alias))
        .routes(routes!(auth::change_password))
        .routes(routes!(users::register_user))
        .routes(routes!(users::grant_role))
        .routes(routes!(users::revoke_role))
        .routes(routes!(users::unlock_user))
        .routes(routes!(users::deactivate_user))
        .routes(routes!(users::reactivate_user))
        .routes(routes!(properties::register_property))
        .routes(routes!(properties::assign_owners))
        .routes(routes!(properties::inactivate_property))
        .routes(routes!(units::add_unit))
        .routes(routes!(units::update_unit))
        .routes(routes!(units::list_unit, units::unlist_unit))
        .routes(routes!(units::change_price))
        .routes(routes!(units::block_unit))
        .routes(routes!(units::end_block))
        .routes(routes!(units::retire_unit))
        .routes(routes!(units::reinstate_unit))
        .routes(routes!(holds::place_hold))
        .routes(routes!(holds::release_hold))
        .routes(routes!(parties::register_party))
        .routes(routes!(parties::update_party))
        .routes(routes!(leases::draft_lease))
        .routes(routes!(leases::edit_draft))
        .routes(routes!(leases::send_lease))
        .routes(routes!(leases::sign_lease))
        .routes(routes!(leases::decline_lease))
        .routes(routes!(leases::void_lease))
        .routes(routes!(leases::activate_lease))
        .routes(routes!(leases::terminate_lease))
        .merge(documents::router())
        .routes(routes!(ledgers::post_charge))
        .routes(routes!(ledgers::record_payment))
        .routes(routes!(ledgers::reverse_payment))
        .routes(routes!(ledgers::reverse_charge))
        .routes(routes!(reports::generate_finance_report))
        .routes(routes!(reports::generate_legal_report))
        .routes(routes!(reports::cancel_report))
}
