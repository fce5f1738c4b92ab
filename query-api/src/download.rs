//! Artifacts as downloads.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use web::Problem;

use crate::QueryApi;
use crate::respond::{Asked, set};

/// One artifact, as it is offered.
pub(crate) struct Download<'a> {
    pub sha256: &'a str,
    pub media_type: &'a str,
    /// Of characters that need no escaping in a header.
    pub file_name: &'a str,
    /// Names it in the 404.
    pub what: &'a str,
}

/// Always as an attachment: what people upload is never shown on our own origin.
pub(crate) async fn download(api: &QueryApi, asked: &Asked, wanted: Download<'_>) -> Result<Response, Problem> {
    let etag = HeaderValue::from_str(&format!("\"{}\"", wanted.sha256))
        .map_err(|_| ports::Error::corrupt("an artifact's hash is none"))?;
    let mut response = if asked.has(&etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let bytes = api.artifacts().get(wanted.sha256).await?.ok_or_else(|| Problem::not_found(wanted.what))?;
        let mut response = bytes.into_response();
        let headers = response.headers_mut();
        // A stored media type that is no header value is only a lost hint.
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        set(headers, header::CONTENT_TYPE, wanted.media_type);
        set(headers, header::CONTENT_DISPOSITION, &format!("attachment; filename=\"{}\"", wanted.file_name));
        response
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, etag);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(header::VARY, HeaderValue::from_static("authorization"));
    Ok(response)
}
