//! Every integration test, in one binary: a file per station or story.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod support;

mod activation;
mod apply;
mod at_rest;
mod breaker;
mod callback;
mod cli;
mod config;
mod disk_truth;
mod disks;
mod ens;
mod errors;
mod fetch;
mod fetching;
mod hostile_archives;
mod inbox;
mod inherited;
mod layers;
mod leftovers;
mod life;
mod load;
mod log;
mod memory;
mod native_api;
mod neighbours;
mod openapi;
mod panics;
mod place;
mod push;
mod readers;
mod remote_push;
mod retention;
mod room;
mod store;
mod systemd;
mod told;
mod verbs;
mod wire_samples;
