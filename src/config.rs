//! The parts' configurations put together, read from files, environment and flags.
