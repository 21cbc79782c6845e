//! What the integration tests stand on.
#![allow(dead_code, reason = "each story uses its own part of the support")]

pub(crate) mod archive;
pub(crate) mod dice;
pub(crate) mod disk;
pub(crate) mod ens;
pub(crate) mod http;
pub(crate) mod lab;
pub(crate) mod nginx;
pub(crate) mod node;
pub(crate) mod origin;
pub(crate) mod receiver;
pub(crate) mod served;
pub(crate) mod source;
