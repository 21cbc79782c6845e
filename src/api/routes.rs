//! Which path is whose, over which listener.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};

use super::{Api, StatusFor, archives, changes, events, metrics, native, page};
use crate::ens;
use crate::http::{ApiError, Peer};

/// The contract's calls, signed, and everything that only looks.
pub(super) fn over_tcp(api: Arc<Api>) -> Router {
    let looking = looking().route_layer(middleware::from_fn_with_state(
        Arc::clone(&api),
        for_those_who_may_look,
    ));
    common(&api).merge(looking).with_state(api)
}

/// Everything.
pub(super) fn over_unix(api: Arc<Api>) -> Router {
    common(&api).merge(looking()).merge(doing()).with_state(api)
}

fn common(api: &Api) -> Router<Arc<Api>> {
    Arc::clone(&api.ens)
        .router()
        .route("/healthz", get(native::healthz))
        .route("/readyz", get(native::readyz))
        .route("/file/1/{app}/{name}/{version}", get(archives::download))
        .fallback(ens::not_found)
        .method_not_allowed_fallback(not_here)
}

fn looking() -> Router<Arc<Api>> {
    Router::new()
        .route("/status", get(page::status))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/status", get(native::status))
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

fn doing() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/pushes", post(changes::push))
        .route("/v1/activate", post(changes::activate))
        .route("/v1/rollback", post(changes::rollback))
        .route("/v1/cancel", post(changes::cancel))
        .route("/v1/retry", post(changes::retry))
        .route("/v1/pin", post(changes::pin))
        .route("/v1/releases", axum::routing::delete(changes::remove))
        .route("/v1/gc", post(changes::collect))
        .route("/v1/verify", post(changes::verify))
        .route("/v1/outbox/replay", post(changes::replay))
}

async fn for_those_who_may_look(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let allowed = match api.config().status_for {
        StatusFor::Anyone => true,
        StatusFor::Loopback => peer.is_on_this_machine(),
        StatusFor::Nobody => false,
    };
    match allowed {
        true => next.run(request).await,
        false => ApiError::forbidden("not over this listener (status_for)").into_response(),
    }
}

async fn not_here() -> Response {
    ApiError::method_not_allowed(
        "not by this method here; changes are asked for over the unix socket",
    )
    .into_response()
}
