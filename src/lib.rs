//! `edgepush` is a file-server agent for edge nodes. It accepts pushes of data files; for each file it
//! fetches, verifies and unpacks the archive, publishes it atomically, and reports the result.
//!
//! This file is the map of the crate. Read it from top to bottom, and you have followed one push.
//!
//! A push arrives at the ENS endpoint ([`ens`]), the native API ([`api`]) or in the inbox ([`watch`]).
//! [`wire`] turns its bytes into the nouns of [`datafile`]. [`intake`] decides the answer for each file
//! by the rules of [`admission`], and commits a [`job`] to the [`store`] before it answers. [`runner`]
//! starts due jobs and hands each to [`deliver`]: [`fetch`] brings the bytes, [`verify`] compares them
//! with what was announced, [`unpack`] writes the tree into a private staging directory, and
//! [`publish`] makes it a version and flips `current`. The outcome and its report are one transaction,
//! and [`report`] delivers the report. [`keep`] looks after what is published. Stations do not
//! import each other, except that [`publish`] accepts only what [`verify`] has proven: `deliver` joins
//! them. `tests/it/layers.rs` holds the directions.

pub mod http;

pub mod ens;

pub mod api;

pub mod watch;

pub mod client;

pub mod wire;

pub mod datafile;

pub mod admission;

pub mod intake;

pub mod job;

pub mod progress;

pub mod shown;

pub mod db;

pub mod store;

pub mod runner;

pub mod deliver;

pub mod fetch;

pub mod dial;

pub mod verify;

pub mod unpack;

pub mod publish;

pub mod report;

pub mod keep;

pub mod app;

pub mod config;

pub mod cli;

pub mod sys;
