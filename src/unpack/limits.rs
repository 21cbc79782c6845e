//! How much an archive may hold. Each limit is a configuration key, and an error about a limit
//! names its key.

use serde::{Deserialize, Serialize};

use super::error::{Reason, Refusal};

/// Longest symbolic link target on Linux: PATH_MAX less the closing NUL.
pub(super) const MAX_TARGET: usize = 4095;

/// The maximum that one archive may hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Members. Directories that exist only as parts of member names are counted separately, up to
    /// the same number.
    pub max_entries: u64,
    /// Bytes of all files together; less if the disk has less free space.
    #[serde(with = "crate::sys::units::bytes")]
    pub max_total_bytes: u64,
    /// Bytes of one file.
    #[serde(with = "crate::sys::units::bytes")]
    pub max_file_bytes: u64,
    /// Bytes of one member's name or link target.
    #[serde(with = "crate::sys::units::bytes")]
    pub max_path_bytes: u64,
    /// Bytes of one component of a name.
    #[serde(with = "crate::sys::units::bytes")]
    pub max_component_bytes: u64,
    /// Components of a name.
    pub max_depth: u64,
    /// Decompressed bytes per byte of the archive, enforced beyond `ratio_floor_bytes`.
    pub max_ratio: u64,
    /// Decompressed bytes up to which `max_ratio` is not enforced.
    #[serde(with = "crate::sys::units::bytes")]
    pub ratio_floor_bytes: u64,
    /// Bytes of one extended header of a tar.
    #[serde(with = "crate::sys::units::bytes")]
    pub max_meta_bytes: u64,
    /// Bytes of a zip's directory.
    #[serde(with = "crate::sys::units::bytes")]
    pub max_zip_directory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: 100_000,
            max_total_bytes: 64 << 30,
            max_file_bytes: 8 << 30,
            max_path_bytes: 4096,
            max_component_bytes: 255,
            max_depth: 128,
            max_ratio: 200,
            ratio_floor_bytes: 1 << 30,
            max_meta_bytes: 1 << 20,
            max_zip_directory_bytes: 64 << 20,
        }
    }
}

impl Limits {
    /// All configuration keys of limits.
    pub const KEYS: &[&str] = &[
        "max_entries",
        "max_total_bytes",
        "max_file_bytes",
        "max_path_bytes",
        "max_component_bytes",
        "max_depth",
        "max_ratio",
        "ratio_floor_bytes",
        "max_meta_bytes",
        "max_zip_directory_bytes",
    ];

    /// Sets the limit `key`; returns false if there is no such limit.
    pub fn set(&mut self, key: &str, value: u64) -> bool {
        let limit = match key {
            "max_entries" => &mut self.max_entries,
            "max_total_bytes" => &mut self.max_total_bytes,
            "max_file_bytes" => &mut self.max_file_bytes,
            "max_path_bytes" => &mut self.max_path_bytes,
            "max_component_bytes" => &mut self.max_component_bytes,
            "max_depth" => &mut self.max_depth,
            "max_ratio" => &mut self.max_ratio,
            "ratio_floor_bytes" => &mut self.ratio_floor_bytes,
            "max_meta_bytes" => &mut self.max_meta_bytes,
            "max_zip_directory_bytes" => &mut self.max_zip_directory_bytes,
            _ => return false,
        };
        *limit = value;
        true
    }

    /// Refuses an archive if `output` bytes are too many for `input` bytes.
    pub(super) fn check_ratio(&self, input: u64, output: u64) -> Result<(), Refusal> {
        if output > self.ratio_floor_bytes && output > input.saturating_mul(self.max_ratio) {
            return Err(Refusal::limit(
                Reason::LimitRatio,
                "max_ratio",
                self.max_ratio,
                format!("{output} bytes out of {input}"),
            ));
        }
        Ok(())
    }
}

/// Counts the members and bytes of one archive against its limits.
#[derive(Debug, Default)]
pub(super) struct Meter {
    entries: u64,
    bytes: u64,
}

impl Meter {
    /// Counts one more member.
    pub(super) fn add_entry(&mut self, limits: &Limits) -> Result<(), Refusal> {
        self.entries += 1;
        if self.entries > limits.max_entries {
            return Err(Refusal::limit(
                Reason::LimitEntries,
                "max_entries",
                limits.max_entries,
                "more",
            ));
        }
        Ok(())
    }

    /// Counts a file of `size` bytes, before any of it is written: at most `size` bytes ever are.
    pub(super) fn add_file(&mut self, size: u64, limits: &Limits) -> Result<(), Refusal> {
        if size > limits.max_file_bytes {
            return Err(Refusal::limit(
                Reason::LimitFile,
                "max_file_bytes",
                limits.max_file_bytes,
                size,
            ));
        }
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > limits.max_total_bytes {
            return Err(Refusal::limit(
                Reason::LimitTotal,
                "max_total_bytes",
                limits.max_total_bytes,
                format!("{} and counting", self.bytes),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_can_be_set_and_read_from_a_file() {
        for key in Limits::KEYS {
            let mut limits = Limits::default();
            assert!(limits.set(key, 7), "{key}");
            let read: Limits = toml::from_str(&format!("{key} = 7")).unwrap();
            assert_eq!(read, limits, "{key}");
        }
        assert!(!Limits::default().set("max_speed", 1));
        assert!(toml::from_str::<Limits>("max_speed = 1").is_err());
        let text = toml::to_string(&Limits::default()).unwrap();
        assert_eq!(toml::from_str::<Limits>(&text).unwrap(), Limits::default());
    }

    #[test]
    fn a_limit_is_met_exactly_and_not_passed() {
        let limits = Limits {
            max_entries: 2,
            max_total_bytes: 10,
            max_file_bytes: 6,
            max_ratio: 3,
            ratio_floor_bytes: 10,
            ..Limits::default()
        };
        let mut meter = Meter::default();
        meter.add_entry(&limits).unwrap();
        meter.add_entry(&limits).unwrap();
        assert_eq!(
            meter.add_entry(&limits).unwrap_err().limit,
            Some("max_entries")
        );
        meter.add_file(6, &limits).unwrap();
        assert_eq!(
            meter.add_file(7, &limits).unwrap_err().reason,
            Reason::LimitFile
        );
        meter.add_file(4, &limits).unwrap();
        assert_eq!(
            meter.add_file(1, &limits).unwrap_err().reason,
            Reason::LimitTotal
        );
        limits.check_ratio(1, 10).unwrap();
        limits.check_ratio(4, 12).unwrap();
        assert_eq!(
            limits.check_ratio(4, 13).unwrap_err().reason,
            Reason::LimitRatio
        );
    }
}
