//! The subcommands and how they show things.
