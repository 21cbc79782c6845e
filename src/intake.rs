//! Admits a push: already there, in flight, refused, or a new job, committed before the caller is answered.
