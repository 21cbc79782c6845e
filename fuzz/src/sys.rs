//! The parts of `sys` that unpacking needs.

#[path = "../../src/sys/beneath.rs"]
pub mod beneath;
#[path = "../../src/sys/failure.rs"]
pub mod failure;
#[path = "../../src/sys/landlock.rs"]
pub mod landlock;
#[path = "../../src/sys/units.rs"]
pub mod units;
