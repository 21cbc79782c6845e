//! Times as the contract writes them: UTC, whole seconds.

/// Returns `ms` since the epoch as `YYYY-MM-DDTHH:MM:SSZ`.
#[must_use]
pub fn stamp(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Parses `YYYY-MM-DDTHH:MM:SSZ`, and no other of the many forms that mean the same.
pub(super) fn parse(text: &str) -> Option<i64> {
    let shape = text
        .bytes()
        .map(|b| if b.is_ascii_digit() { b'0' } else { b });
    if !shape.eq(*b"0000-00-00T00:00:00Z") {
        return None;
    }
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(time.as_millisecond())
}
