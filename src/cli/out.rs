//! The standard output of a command: text, JSON, colors and tables.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// The standard output. Nothing else writes to it.
///
/// A reader that goes away (`edgepush ls | head`) is not an error: the rest is dropped, and
/// [`Self::is_closed`] tells loops to end.
pub struct Out {
    sink: Box<dyn Write>,
    closed: bool,
    /// Whether to print JSON.
    pub json: bool,
    /// Whether to use colors.
    pub color: bool,
    /// Whether it is a terminal.
    pub terminal: bool,
}

impl Out {
    /// Opens the standard output.
    #[must_use]
    pub fn stdout(json: bool, no_color: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self {
            sink: Box::new(io::stdout()),
            closed: false,
            json,
            color: terminal && wanted && !no_color,
            terminal,
        }
    }

    /// Writes and flushes one line.
    pub fn line(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        self.bytes(format!("{}\n", text.as_ref()).as_bytes())
    }

    /// Writes `value` as one JSON document over several lines.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        self.line(serde_json::to_string_pretty(value)?)
    }

    /// Writes `value` as one line of JSON, for streams.
    pub fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        self.line(serde_json::to_string(value)?)
    }

    /// Writes and flushes `bytes`.
    pub fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        match self.sink.write_all(bytes).and_then(|()| self.sink.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            other => other,
        }
    }

    /// Tells whether the reader has gone away.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Returns `text` in the color of `paint`, if colors are used.
    #[must_use]
    pub fn paint(&self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Plain => return text.to_owned(),
            _ if !self.color => return text.to_owned(),
            Paint::Good => "32",
            Paint::Bad => "31",
            Paint::Busy => "33",
            Paint::Dim => "2",
            Paint::Head => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// What a piece of text stands for, and so its color.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Good,
    Bad,
    /// In progress or waiting.
    Busy,
    /// Less important.
    Dim,
    Head,
}

/// Returns `text` with control characters and direction marks escaped: names and messages come from
/// outside, and a terminal would execute them.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().map(|c| match c {
        c if obeyed(c) => c.escape_default().to_string(),
        c => c.to_string(),
    });
    Cow::Owned(escaped.collect())
}

/// A table of text: columns as wide as their widest cell, numbers aligned to the right.
#[derive(Debug, Default)]
pub struct Table {
    heads: Vec<Head>,
    rows: Vec<Vec<(String, Paint)>>,
}

#[derive(Debug)]
struct Head {
    name: &'static str,
    right: bool,
}

impl Table {
    /// Starts a table. A heading that begins with `>` is of a column of numbers.
    #[must_use]
    pub fn new(heads: &[&'static str]) -> Self {
        let head = |name: &&'static str| Head {
            name: name.trim_start_matches('>'),
            right: name.starts_with('>'),
        };
        Self {
            heads: heads.iter().map(head).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row of one cell per column.
    pub fn row(&mut self, cells: Vec<(String, Paint)>) {
        debug_assert_eq!(cells.len(), self.heads.len());
        let cells = cells
            .into_iter()
            .map(|(text, paint)| (printable(&text).into_owned(), paint));
        self.rows.push(cells.collect());
    }

    /// Writes the table.
    pub fn print(&self, out: &mut Out) -> io::Result<()> {
        let widths: Vec<usize> = self.widths();
        let heads = self.heads.iter().map(|head| (head.name, Paint::Head));
        out.line(self.render(&widths, heads, out))?;
        for row in &self.rows {
            let cells = row.iter().map(|(text, paint)| (text.as_str(), *paint));
            out.line(self.render(&widths, cells, out))?;
        }
        Ok(())
    }

    fn widths(&self) -> Vec<usize> {
        let column = |i: usize| self.rows.iter().map(move |row| row[i].0.chars().count());
        let widest = |(i, head): (usize, &Head)| column(i).max().unwrap_or(0).max(head.name.len());
        self.heads.iter().enumerate().map(widest).collect()
    }

    fn render<'a>(
        &self,
        widths: &[usize],
        cells: impl Iterator<Item = (&'a str, Paint)>,
        out: &Out,
    ) -> String {
        let cells = cells.zip(&self.heads).zip(widths);
        let padded = cells.map(|(((text, paint), head), width)| {
            let pad = " ".repeat(width.saturating_sub(text.chars().count()));
            let text = out.paint(paint, text);
            if head.right {
                format!("{pad}{text}")
            } else {
                format!("{text}{pad}")
            }
        });
        let line = padded.collect::<Vec<_>>().join("  ");
        line.trim_end().to_owned()
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What a command wrote in a test.
    #[derive(Clone, Default)]
    pub(in crate::cli) struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        pub(in crate::cli) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns an output that is kept.
    pub(in crate::cli) fn kept(json: bool) -> (Out, Written) {
        let written = Written::default();
        let out = Out {
            sink: Box::new(written.clone()),
            closed: false,
            json,
            color: false,
            terminal: false,
        };
        (out, written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_columns_up() {
        let (mut out, written) = testing::kept(false);
        let mut table = Table::new(&["NAME", ">SIZE", "NOTE"]);
        table.row(vec![
            ("a".into(), Paint::Plain),
            ("1000 B".into(), Paint::Plain),
            ("".into(), Paint::Plain),
        ]);
        table.row(vec![
            ("longer\u{1b}[2J".into(), Paint::Good),
            ("7 B".into(), Paint::Plain),
            ("ü".into(), Paint::Plain),
        ]);
        table.print(&mut out).unwrap();
        let want = "NAME               SIZE  NOTE\n\
                    a                1000 B\n\
                    longer\\u{1b}[2J     7 B  ü\n";
        assert_eq!(written.text(), want);
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut out = Out {
            sink: Box::new(Gone),
            ..testing::kept(false).0
        };
        out.line("x").unwrap();
        assert!(out.is_closed());
        out.line("y").unwrap();
    }
}
