//! Files that people and sync tools change: the inbox of push documents, and the configuration.
//!
//! The kernel reports changes; since some file systems report none, both are also looked at without a report.

mod config;
mod inbox;
mod kernel;

pub use config::on_change;
pub use inbox::{Config, Inbox};
