//! The ENS endpoint and the native API; the one place where errors become HTTP.

mod body;
pub mod client;
pub mod command;
mod connection;
mod error;
mod keys;
pub mod model;
mod server;
