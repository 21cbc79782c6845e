//! `edgepush` is a file-server agent for edge nodes: it takes pushes of data files, and fetches, verifies, unpacks,
//! publishes and reports each.
//!
//! This file is the map of the crate; read it from top to bottom and you have followed one push.
//!
//! A push comes in by the ENS endpoint, the native API or a document in the inbox. [`wire`] turns its bytes into the
//! nouns of [`datafile`]; [`intake`] decides what each file gets for an answer and commits a [`job`] to the [`store`]
//! before anyone is answered. [`runner`] takes due jobs and sends each down the road, [`deliver`]: [`fetch`] brings the
//! bytes, [`verify`] compares them with what was announced, [`unpack`] writes the tree into a private staging directory,
//! and [`publish`] makes it a version and flips `current`. The outcome and its report are one transaction; [`report`]
//! delivers it; [`keep`] looks after what is published. Stations never import each other: `deliver` joins them, and `tests/it/layers.rs` holds the directions.

pub mod api;
pub mod ens;
pub mod http;
pub mod watch;

pub mod wire;

pub mod datafile;

pub mod admission;
pub mod intake;
pub mod job;
pub mod progress;
pub mod shown;

pub mod keep;
pub mod runner;

pub mod deliver;

pub mod fetch;
pub mod publish;
pub mod unpack;
pub mod verify;

pub mod report;

pub mod dial;

pub mod store;

pub mod app;
pub mod cli;
pub mod config;

pub mod sys;
