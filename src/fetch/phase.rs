//! The phases of an exchange with an origin, as messages, events and timeouts name them.

use std::fmt;

/// Where in an exchange with an origin something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before anything was dialled, or while waiting to.
    Start,
    /// Looking up the host's addresses.
    Resolve,
    /// Opening the connection, through the proxy if there is one.
    Connect,
    Tls,
    /// The request is sent; waiting for the head of the response.
    FirstByte,
    Body,
}

impl Phase {
    /// Returns the stable lower-case name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::FirstByte => "first-byte",
            Self::Body => "body",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
