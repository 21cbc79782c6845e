//! Files that people and sync tools change: the inbox of push documents, and the configuration.
//!
//! The kernel reports changes. Some file systems report none, so the inbox is also scanned
//! regularly.

mod config;
mod document;
mod entries;
mod inbox;
mod kernel;

pub use config::on_change;
pub use inbox::{Config, Inbox};
