//! The HTTP server below every endpoint: connections, request bodies, error answers, ranges of
//! files.
//!
//! [`server`] accepts connections, [`places`] bounds their number, [`connection`] puts time limits around
//! hyper, [`body`] reads what is sent, [`origin`] shows where it
//! comes from, [`error`] answers what cannot be done and [`mod@file`] sends a
//! file or a part of it. Which path leads where is decided by a router that is passed in; nothing
//! here knows pushes, jobs or the store.

pub mod body;
mod connection;
pub mod error;
pub mod file;
pub mod origin;
mod places;
pub mod server;

pub use connection::{Settings, Unreadable};
pub use error::{ApiError, Problem, json};
pub use server::{Listener, Peer, serve};
