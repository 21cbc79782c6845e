//! The ENS contract byte for byte, read and written: requests, responses, error codes, both
//! signature schemes. No I/O.
//!
//! [`parameters`] decodes a call and [`sign`] authenticates it. [`push`] and [`document`] read what
//! is pushed, [`strategy`] where it goes, [`describe`] and [`download`] the two queries;
//! [`envelope`] spells the answers, [`errors`] the refusals. What the vendor's own clients send and
//! accept was measured, and the odd spellings here are theirs. Nothing in here knows a socket, a
//! clock or the store: everything that varies is an argument, so that each rule is a table in a
//! test.

pub mod describe;
pub mod document;
pub mod download;
mod encode;
pub mod envelope;
pub mod errors;
pub mod json;
pub mod parameters;
pub mod push;
pub mod sign;
pub mod status;
pub mod strategy;
mod text;
pub mod time;

pub use document::PushDocument;
