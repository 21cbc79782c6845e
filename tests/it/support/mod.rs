//! What the integration tests stand on.
#![allow(dead_code, reason = "each story uses its own part of the support")]

pub(crate) mod origin;
