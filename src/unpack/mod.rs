//! Archive to staging tree: an in-memory model decides, and the disk is written by directory descriptors only.
