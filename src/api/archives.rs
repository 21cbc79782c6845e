//! Kept archives over HTTP, under the signed paths of `DescribeDataDownloadURL`.
//!
//! The signature is checked first, and every failure is the same 403, so the answer reveals nothing
//! about what exists.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::Api;
use crate::ens;
use crate::http::ApiError;
use crate::http::file::Served;
use crate::shown::Release;
use crate::store::{Reader, releases};
use crate::wire::errors::{Code, Refusal};

/// Sends an archive, or a range of it.
pub(super) async fn download(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Response, ApiError> {
    let asked = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or("");
    let now_s = api.deps.clock.now_ms() / 1000;
    let signed_for = api.file_key.signed_for(&asked, query, now_s);
    let may_load = signed_for.is_some_and(|id| id == ens::UNSIGNED || api.ens.has_key(&id));
    if !may_load {
        return Ok(forbidden(request.headers()));
    }
    let find = move |reader: &Reader<'_>| releases::by_download(reader, &asked);
    let Some(release) = api.deps.store.read(find).await? else {
        return Err(ApiError::not_found("the archive is not on this node"));
    };
    let archive = api.deps.publisher.layout().archive(&release.key);
    let etag = etag(&release);
    let opened = tokio::task::spawn_blocking(move || Served::open(&archive, etag)).await;
    let Ok(Ok(served)) = opened else {
        return Err(ApiError::not_found("the archive is not on this node"));
    };
    Ok(served.answer(request.method(), request.headers()))
}

fn forbidden(headers: &HeaderMap) -> Response {
    let refusal = Refusal::because(
        Code::NoPermission,
        "The path is not signed, has expired, or its access key may not be used any more.",
    );
    let mut answer = ens::refused(&refusal, headers);
    // The contract wants 403 here, unlike for its calls.
    *answer.status_mut() = StatusCode::FORBIDDEN;
    answer
}

/// A strong validator: a version's archive never changes.
fn etag(release: &Release) -> String {
    let content = &release.content;
    match (content.sha256, content.md5) {
        (Some(sha256), _) => format!("\"{sha256}\""),
        (None, Some(md5)) => format!("\"{md5}\""),
        (None, None) => format!("\"{}-{}\"", release.job, release.published_ms),
    }
}
