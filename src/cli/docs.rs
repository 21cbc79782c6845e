//! Exit codes, shell completions and manual pages, all generated from the parser.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{CommandFactory, Parser};

use super::Arguments;
use super::exit::{self, Error, Exit};
use super::out::Out;

/// Returns the exit codes for the end of the help.
pub(super) fn exit_codes() -> String {
    let mut text = String::from("Exit codes:\n");
    for exit in exit::ALL {
        let _ = writeln!(text, "  {:<4}{}", exit.code, exit.meaning);
    }
    text
}

#[derive(Debug, Parser)]
pub(super) struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

impl Completions {
    pub(super) fn run(self, out: &mut Out) -> Result<Exit, Error> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "edgepush", &mut text);
        out.bytes(&text)?;
        Ok(exit::DONE)
    }
}

#[derive(Debug, Parser)]
pub(super) struct Man {
    /// Write `edgepush.1` and one page per subcommand to this directory instead
    directory: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(self, out: &mut Out) -> Result<Exit, Error> {
        let mut command = Arguments::command();
        command.build();
        match self.directory {
            None => out.bytes(&page(&command)?)?,
            Some(directory) => write_pages(&command, &directory)?,
        }
        Ok(exit::DONE)
    }
}

fn write_pages(command: &clap::Command, directory: &std::path::Path) -> Result<(), Error> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let path = directory.join(format!("{name}.1"));
    std::fs::write(&path, page(command)?).map_err(|source| {
        let verb = "write";
        Error::new(
            exit::FAILED,
            crate::sys::durable::Error { verb, path, source },
        )
    })?;
    for below in command.get_subcommands().filter(|c| c.get_name() != "help") {
        write_pages(below, directory)?;
    }
    Ok(())
}

fn page(command: &clap::Command) -> Result<Vec<u8>, Error> {
    let command = command.clone().after_help(clap::builder::Resettable::Reset);
    let mut text = Vec::new();
    clap_mangen::Man::new(command).render(&mut text)?;
    text.extend_from_slice(b".SH \"EXIT STATUS\"\n");
    for exit in exit::ALL {
        text.extend_from_slice(format!(".TP\n{}\n{}\n", exit.code, exit.meaning).as_bytes());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::out::testing::kept;
    use super::*;

    #[test]
    fn the_parser_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn help_and_manual_name_every_exit_code() {
        let help = Arguments::command().render_long_help().to_string();
        let (mut out, written) = kept(false);
        Man { directory: None }.run(&mut out).unwrap();
        for exit in exit::ALL {
            assert!(help.contains(&format!("  {:<4}{}", exit.code, exit.meaning)));
            assert!(
                written
                    .text()
                    .contains(&format!(".TP\n{}\n{}", exit.code, exit.meaning))
            );
        }
    }

    #[test]
    fn writes_a_page_for_each_subcommand() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Some(dir.path().to_owned());
        Man { directory }.run(&mut kept(false).0).unwrap();
        for page in ["edgepush.1", "edgepush-config.1", "edgepush-config-check.1"] {
            assert!(dir.path().join(page).exists(), "{page}");
        }
    }
}
