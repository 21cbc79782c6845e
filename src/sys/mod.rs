//! The base of every station: durable file operations, free space, the clock, the service manager, the
//! sandbox, and the vocabulary of failures. Knows nothing of pushes and imports nothing of the crate.

pub mod beneath;
pub mod blocks;
pub mod chain;
pub mod clock;
pub mod deadline;
pub mod descriptors;
pub mod durable;
pub mod failpoint;
pub mod failure;
pub mod ground;
pub mod landlock;
pub mod live;
pub mod lossy;
pub mod only;
pub mod pauses;
pub mod place;
pub mod readers;
pub mod secret;
pub mod space;
pub mod systemd;
pub mod tasks;
pub mod units;

pub use chain::Chain;
pub use live::Live;
