//! The routes of each listener.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};

use super::{Api, StatusFor, archives, changes, events, metrics, native, page, status, trees};
use crate::ens;
use crate::http::{ApiError, Peer, origin};

/// The contract's signed requests, and those that only read.
pub(super) fn over_tcp(api: Arc<Api>) -> Router {
    let reading = read_routes().route_layer(middleware::from_fn_with_state(
        Arc::clone(&api),
        only_readers,
    ));
    common(&api).merge(reading).with_state(api)
}

/// Every request.
pub(super) fn over_unix(api: Arc<Api>) -> Router {
    common(&api)
        .merge(read_routes())
        .merge(write_routes())
        .with_state(api)
}

fn common(api: &Api) -> Router<Arc<Api>> {
    Arc::clone(&api.ens)
        .router()
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz))
        .route("/file/1/{app}/{name}/{version}", get(archives::download))
        .fallback(ens::not_found)
        .method_not_allowed_fallback(not_here)
}

fn read_routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/status", get(page::status))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/status", get(status::status))
        .route("/v1/pushes/{id}", get(native::push_state))
        .route("/v1/files", get(native::files))
        .route("/v1/files/{id}", get(native::file))
        .route("/v1/files/{id}/history", get(native::history))
        .route("/v1/files/{id}/events", get(native::events_of))
        .route("/v1/events", get(events::follow))
        .route("/v1/releases", get(native::releases))
        .route("/v1/activations", get(native::activations_log))
        .route("/v1/outbox", get(native::outbox))
}

fn write_routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/pushes", post(changes::push))
        .route("/v1/activate", post(changes::activate))
        .route("/v1/rollback", post(changes::rollback))
        .route("/v1/cancel", post(changes::cancel))
        .route("/v1/retry", post(changes::retry))
        .route("/v1/pin", post(changes::pin))
        .route("/v1/releases", axum::routing::delete(trees::remove))
        .route("/v1/gc", post(trees::collect))
        .route("/v1/verify", post(trees::verify))
        .route("/v1/outbox/replay", post(changes::replay))
}

async fn only_readers(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let config = api.config();
    let allowed = match config.status_for {
        StatusFor::Anyone => true,
        StatusFor::Loopback => {
            let public = config.public_address.as_deref();
            peer.is_on_this_machine()
                && !origin::is_forwarded(request.headers())
                && origin::is_to_this_host(request.headers(), public)
        }
        StatusFor::Nobody => false,
    };
    if allowed {
        next.run(request).await
    } else {
        ApiError::forbidden("not allowed over this listener (api.status_for)").into_response()
    }
}

async fn not_here() -> Response {
    ApiError::method_not_allowed(
        "method not allowed here; changes are only accepted over the unix socket",
    )
    .into_response()
}
