//! The result of `apply` and `push`: one row per file, and why a file was not published.

use std::time::Duration;

use serde::Serialize;

use super::exit::{self, Error, Exit};
use super::out::{Out, Paint, Table, printable};
use super::show::NOTHING;
use crate::job::Failure;
use crate::sys::units::show_bytes;

/// How one file of a push ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Ended {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) result: EndResult,
    /// Size of the archive in bytes.
    pub(super) size: Option<u64>,
    /// Files in the tree.
    pub(super) files: Option<u64>,
    pub(super) seconds: Option<f64>,
    /// Where the published tree is.
    pub(super) path: Option<String>,
    /// The region, where an ENS endpoint was pushed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) region: Option<String>,
    pub(super) failure: Option<Failure>,
    /// Why it was refused.
    pub(super) message: Option<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct All<'a> {
    files: &'a [Ended],
}

/// How a file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum EndResult {
    /// It was fetched and is published.
    Published,
    /// It was published before; nothing was fetched.
    AlreadyThere,
    Failed,
    Canceled,
    Refused,
    /// It was accepted, and the command did not wait for it.
    Accepted,
    /// The command was stopped; the next run resumes it.
    Interrupted,
}

impl EndResult {
    fn shown(self) -> (&'static str, Paint) {
        match self {
            Self::Published => ("published", Paint::Good),
            Self::AlreadyThere => ("already there", Paint::Good),
            Self::Failed => ("failed", Paint::Bad),
            Self::Canceled => ("canceled", Paint::Bad),
            Self::Refused => ("refused", Paint::Bad),
            Self::Accepted => ("accepted", Paint::Busy),
            Self::Interrupted => ("interrupted", Paint::Bad),
        }
    }

    fn is_good(self) -> bool {
        match self {
            Self::Published | Self::AlreadyThere | Self::Accepted => true,
            Self::Failed | Self::Canceled | Self::Refused | Self::Interrupted => false,
        }
    }
}

/// Shows how each file ended, and returns the exit code: done only if every file is there.
pub(super) fn show(ended: &[Ended], out: &mut Out) -> Result<Exit, Error> {
    if out.json {
        out.json(&All { files: ended })?;
    } else {
        table(ended).print(out)?;
        for file in ended.iter().filter(|file| !file.result.is_good()) {
            out.line("")?;
            for line in reasons(file) {
                out.line(printable(&line))?;
            }
        }
    }
    let good = ended.iter().all(|file| file.result.is_good());
    Ok(if good { exit::DONE } else { exit::FAILED })
}

fn table(ended: &[Ended]) -> Table {
    let heads = [
        "NAME", "VERSION", "RESULT", ">SIZE", ">FILES", ">SECONDS", "WHERE",
    ];
    let mut table = Table::new(&heads);
    for file in ended {
        let (result, paint) = file.result.shown();
        let or_dash = |text: Option<String>| (text.unwrap_or(NOTHING.into()), Paint::Plain);
        table.row(vec![
            (file.name.clone(), Paint::Plain),
            (file.version.clone(), Paint::Plain),
            (result.to_owned(), paint),
            or_dash(file.size.map(show_bytes)),
            or_dash(file.files.map(|n| n.to_string())),
            or_dash(file.seconds.map(|s| format!("{s:.2}"))),
            or_dash(file.path.clone().or_else(|| file.region.clone())),
        ]);
    }
    table
}

/// Returns why a file was not published, in lines.
fn reasons(file: &Ended) -> Vec<String> {
    let mut head = format!("{}@{}", file.name, file.version);
    if let Some(region) = &file.region {
        head = format!("{head} in {region}");
    }
    if file.result == EndResult::Interrupted {
        return vec![format!(
            "{head}: interrupted; run the same command again to resume"
        )];
    }
    let Some(failure) = &file.failure else {
        let why = file.message.as_deref().unwrap_or("no reason was given");
        return vec![format!("{head}: {why}")];
    };
    let mut lines = vec![format!(
        "{head}: {} in {}: {}",
        failure.kind, failure.stage, failure.message
    )];
    let values = [
        ("detail", &failure.detail),
        ("expected", &failure.expected),
        ("found", &failure.found),
        ("entry", &failure.entry),
        ("limit", &failure.limit),
    ];
    for (what, value) in values {
        if let Some(value) = value {
            lines.push(format!("  {what:<8}  {value}"));
        }
    }
    lines
}

/// Returns a duration in seconds, for a row.
pub(super) fn seconds(span: Option<Duration>) -> Option<f64> {
    span.map(|span| span.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::super::out::testing::kept;
    use super::*;
    use crate::job::Stage;
    use crate::sys::failure::{Class, Kind, Retry};

    fn ended(name: &str, result: EndResult) -> Ended {
        Ended {
            name: name.into(),
            version: "1.0".into(),
            result,
            size: Some(2048),
            files: Some(3),
            seconds: Some(0.25),
            path: Some("/d/current".into()),
            region: None,
            failure: None,
            message: None,
        }
    }

    #[test]
    fn a_failed_file_says_why_and_makes_the_command_fail() {
        const KIND: Kind = Kind {
            name: "digest-mismatch",
            class: Class::Content,
            retry: Retry::Fatal,
            help: "",
        };
        let mut failed = ended("b", EndResult::Failed);
        failed.path = None;
        failed.failure = Some(Failure {
            expected: Some("00".into()),
            found: Some("ff".into()),
            ..Failure::new(Stage::Verify, &KIND, "match md5".into())
        });
        let (mut out, written) = kept(false);
        let files = [ended("a", EndResult::Published), failed];
        assert_eq!(show(&files, &mut out).unwrap(), exit::FAILED);
        let want = "\
NAME  VERSION  RESULT        SIZE  FILES  SECONDS  WHERE
a     1.0      published  2.0 KiB      3     0.25  /d/current
b     1.0      failed     2.0 KiB      3     0.25  -

b@1.0: digest-mismatch in verify: match md5
  expected  00
  found     ff
";
        assert_eq!(written.text(), want);
    }

    #[test]
    fn what_was_there_before_is_no_failure() {
        let files = [ended("a", EndResult::AlreadyThere)];
        let exit = show(&files, &mut kept(false).0).unwrap();
        assert_eq!(exit, exit::DONE);
        let refused = [ended("a", EndResult::Refused)];
        let exit = show(&refused, &mut kept(true).0).unwrap();
        assert_eq!(exit, exit::FAILED);
    }
}
