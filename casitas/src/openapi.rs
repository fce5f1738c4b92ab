//! The OpenAPI document, generated from the routes.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{InfoBuilder, OpenApi, Server};

/// The whole API, both sides.
pub fn document() -> OpenApi {
    let (_, mut document) = command_api::routes::described().split_for_parts();
    let (_, queries) = query_api::described().split_for_parts();
    document.merge(queries);
    finish(&mut document);
    document
}

/// Title, version and how to authenticate.
pub fn finish(document: &mut OpenApi) {
    document.info = InfoBuilder::new()
        .title("Casitas Empire")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Rental management, event-sourced. Commands answer a position token (Casitas-Position); a GET that presents it as \
             Casitas-Min-Position sees that command. Every answer that is not a success is application/problem+json with a stable \
             code. All paths also answer under /v1.",
        ))
        .license(Some(utoipa::openapi::LicenseBuilder::new().name("Apache-2.0").build()))
        .build();
    document.servers = Some(vec![Server::new("/")]);
    let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    document.components.get_or_insert_default().add_security_scheme("token", SecurityScheme::Http(token));
}
