//! Staging to version directory to `current`; the manifest beside it; how many versions stay.
