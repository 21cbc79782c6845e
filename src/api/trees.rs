//! Work on published trees, over the unix socket only: removal, retention and verification.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};

use super::Api;
use super::changes::key;
use super::error::ApiError;
use super::native::{Answer, ok};
use crate::datafile::Key;
use crate::keep::{Healed, Removed, Verification};
use crate::publish::check::Damage;
use crate::shown::model;
use crate::store::releases;
use crate::sys::Chain;

/// Removes a version from the disk.
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    query: Result<Query<model::WhichVersion>, QueryRejection>,
) -> Answer {
    let Query(which) = query.map_err(|e| ApiError::bad_request(e.body_text()))?;
    let key = key(which);
    let looked = key.clone();
    let row = api
        .deps
        .store
        .read(move |r| releases::get(r, &looked))
        .await?;
    let removed = api
        .deps
        .keep
        .remove(key.clone(), "operator", "asked for")
        .await?;
    match removed {
        Removed::Done => ok(&model::Removed {
            key,
            bytes: row.map_or(0, |r| r.bytes),
        }),
        Removed::Unknown => Err(ApiError::not_found(format!("{key} is not on this node"))),
        Removed::Held(why) => Err(ApiError::conflict(format!("{key} stays: {why}"))),
    }
}

/// Applies retention now.
pub(super) async fn collect(State(api): State<Arc<Api>>) -> Answer {
    let swept = api.deps.keep.collect(api.draining.clone()).await?;
    let removed = swept.versions.into_iter();
    ok(&model::Collected {
        removed: removed
            .map(|(key, bytes)| model::Removed { key, bytes })
            .collect(),
        freed: swept.bytes,
        swept: swept.partials,
    })
}

/// Compares trees with their manifests, and repairs damaged ones if the request says so.
pub(super) async fn verify(State(api): State<Arc<Api>>, body: Body) -> Answer {
    let what: model::WhatToVerify = api.body(body).await?;
    let heal = what.heal;
    let keys = api.published(what).await?;
    if keys.is_empty() {
        return Err(ApiError::not_found("no published version matches"));
    }
    let keep = &api.deps.keep;
    // Reading stops when the agent drains and when the client disconnects.
    let stop = api.draining.child_token();
    let _reading = stop.clone().drop_guard();
    let mut trees = Vec::with_capacity(keys.len());
    for key in keys {
        let verification = keep.verify(&key, None, &stop).await?;
        let mut tree = verified(key, verification);
        if heal && !tree.damage.is_empty() {
            tree.healed = keep.heal(&tree.key).await? == Healed::Done;
        }
        trees.push(tree);
    }
    ok(&model::Verified { trees })
}

impl Api {
    /// Returns the published versions that `what` selects.
    async fn published(&self, what: model::WhatToVerify) -> Result<Vec<Key>, ApiError> {
        let (app, name) = (what.app, what.name);
        let rows = self
            .deps
            .store
            .read(move |r| {
                let (app, name) = (app.as_ref(), name.as_ref());
                let (app, name) = (app.map(|a| a.as_str()), name.map(|n| n.as_str()));
                releases::list(r, app, name, 0, u32::MAX)
            })
            .await?;
        let wanted = |key: &Key| what.version.as_ref().is_none_or(|v| *v == key.version);
        let keys = rows.into_iter().map(|row| row.key);
        Ok(keys.filter(wanted).collect())
    }
}

fn verified(key: Key, verification: Verification) -> model::VerifiedTree {
    let (files, bytes, damage) = match verification {
        Verification::Whole(report) | Verification::Damaged(report) => {
            let damage = report.damage.iter().map(difference).collect();
            (report.entries, report.bytes, damage)
        }
        Verification::Failed(error) => (0, 0, vec![Chain(&error).to_string()]),
    };
    model::VerifiedTree {
        key,
        files,
        bytes,
        damage,
        healed: false,
    }
}

fn difference(damage: &Damage) -> String {
    let Damage {
        path,
        what,
        expected,
        found,
    } = damage;
    format!("{path}: {what}: expected {expected}, found {found}")
}
