//! Takes due jobs, runs each along the road within its bounds, and records how it ended.
