//! Builds the parts, runs them as the daemon or for one `apply`, and drains them.
