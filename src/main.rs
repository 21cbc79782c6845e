//! Parses the arguments, runs, and maps the error to an exit code.

fn main() {}
