//! The road: one function, fetch, verify, unpack, publish.
