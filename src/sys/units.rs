//! Values with units in configuration files: durations such as `"30s"` or `"1h 30m"`, sizes such as
//! `"10GiB"`.
//!
//! Use with `#[serde(with = "crate::sys::units::duration")]` on a [`Duration`] and
//! `#[serde(with = "crate::sys::units::bytes")]` on a `u64`.

use std::time::Duration;

/// A size that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size, expected a number of bytes or a text such as \"64MiB\" or \"10GB\"")]
pub struct SizeError(String);

const UNITS: [(&str, u64); 9] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
];

/// Parses a size in bytes: a number, alone or with `B`, `KiB`, `MiB`, `GiB`, `TiB`, `KB`, `MB`, `GB` or
/// `TB`, in any case; a fraction such as `1.5GiB` is allowed.
pub fn parse_bytes(text: &str) -> Result<u64, SizeError> {
    let wrong = || SizeError(text.to_owned());
    let lower = text.trim().to_ascii_lowercase();
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, unit)| Some((lower.strip_suffix(name)?.trim_end(), *unit)))
        .unwrap_or((&lower, 1));
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit).ok_or_else(wrong);
    }
    let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let value: f64 = number.parse().map_err(|_| wrong())?;
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a fraction of a unit is a rounding anyway; the range is checked"
    )]
    if plain && value * (unit as f64) < 9e18 {
        Ok((value * unit as f64) as u64)
    } else {
        Err(wrong())
    }
}

/// Formats a size with the largest binary unit that keeps it at or above 1: `1.5 GiB`, `812 B`.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    for (name, unit) in [
        ("TiB", 1u64 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ] {
        if bytes >= unit {
            #[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
            return format!("{:.1} {name}", bytes as f64 / unit as f64);
        }
    }
    format!("{bytes} B")
}

/// Returns `bytes` in the form that [`parse_bytes`] reads back exactly.
fn exact_bytes(bytes: u64) -> String {
    for (name, unit) in [
        ("TiB", 1u64 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    format!("{bytes}B")
}

/// Returns `duration` in a form that is read back exactly: `1d 12h`, `250ms`. Without months or years,
/// whose length varies.
fn exact_duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), u64::from(duration.subsec_nanos()));
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (nanos / 1_000_000, "ms"),
        (nanos / 1000 % 1000, "us"),
        (nanos % 1000, "ns"),
    ];
    let shown: Vec<String> = parts
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, unit)| format!("{n}{unit}"))
        .collect();
    match shown.is_empty() {
        true => "0s".to_owned(),
        false => shown.join(" "),
    }
}

/// A number of bytes, written as a text such as `"10GiB"`; for optional values.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Bytes(#[serde(with = "bytes")] pub u64);

/// Serde for a size in bytes.
pub mod bytes {
    use serde::{Deserializer, Serializer};

    /// Writes the exact size as a text.
    pub fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::exact_bytes(*bytes))
    }

    /// Reads a number of bytes or a text such as `"10GiB"`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = u64;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of bytes or a text such as \"64MiB\"")
            }
            fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<u64, E> {
                Ok(v)
            }
            fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<u64, E> {
                u64::try_from(v)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(v), &self))
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<u64, E> {
                super::parse_bytes(v).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Serde for a duration.
pub mod duration {
    use super::Duration;
    use serde::{Deserializer, Serializer};

    /// Writes a text such as `30s`.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::exact_duration(*duration))
    }

    /// Reads a text such as `"30s"`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Duration;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a duration such as \"5s\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
                humantime::parse_duration(text)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_go_both_ways() {
        for (text, ms) in [
            ("0s", 0),
            ("30s", 30_000),
            ("10m", 600_000),
            ("90d", 90 * 86_400_000),
            ("1d 2h 3m 4s 5ms", 93_784_005),
        ] {
            let duration = Duration::from_millis(ms);
            assert_eq!(exact_duration(duration), text);
            assert_eq!(humantime::parse_duration(text), Ok(duration));
        }
    }

    #[test]
    fn sizes_go_both_ways() {
        for (text, want) in [
            ("0", 0),
            ("512", 512),
            ("64MiB", 64 << 20),
            ("1.5 GiB", 3 << 29),
            ("10gb", 10_000_000_000),
            ("7B", 7),
        ] {
            assert_eq!(parse_bytes(text), Ok(want), "{text}");
            assert_eq!(parse_bytes(&exact_bytes(want)), Ok(want));
        }
        for bad in [
            "",
            "x",
            "-1",
            "1e3",
            "inf",
            "GiB",
            "1.2.3MiB",
            "99999999TiB",
        ] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(show_bytes(3 << 29), "1.5 GiB");
    }
}
