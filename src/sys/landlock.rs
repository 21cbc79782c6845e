//! The second wall: threads that unpack may write below the state directory and nowhere else.
