//! Size and digests of what arrived; the only maker of the proof that publishing asks for.
