//! The inbox of push documents, and configuration files that change.
