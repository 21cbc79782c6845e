//! The subcommands and how they show things.

pub mod archive;
