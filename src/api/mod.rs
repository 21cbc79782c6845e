//! The ENS endpoint and the native API; the one place where errors become HTTP.
