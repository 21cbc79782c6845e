//! Prints an error with its causes on one line: the only place where a chain becomes text.

use std::error::Error;
use std::fmt;

/// Shows an error and its sources, joined by `: `. A source that its parent already ends with is omitted.
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !last.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            last = text;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open `x`")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn prints_causes_once() {
        let error = Outer(std::io::Error::other("no such file"));
        assert_eq!(Chain(&error).to_string(), "open `x`: no such file");
    }
}
