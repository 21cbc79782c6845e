//! Every integration test, in one binary: a file per station or story.

mod layers;
