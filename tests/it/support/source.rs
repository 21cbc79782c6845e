//! The sources as a graph: which file names which, and how long its functions are. Read from tokens, so that paths
//! inside macros count and comments do not. Code under `#[cfg(test)]` is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One source file.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// The module below the crate; empty for `lib.rs` and `main.rs`.
    pub(crate) module: Vec<String>,
    pub(crate) functions: Vec<Function>,
    /// What `use` brings in: the name in this file, and the path as written.
    imports: BTreeMap<String, Vec<String>>,
    /// Every path of two parts or more, as written.
    paths: BTreeSet<Vec<String>>,
}

/// One function, from `fn` to its closing brace.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

impl Source {
    /// Returns the paths below the crate that this file names, as written there: re-exports are not followed.
    pub(crate) fn named(&self) -> BTreeSet<Vec<String>> {
        let paths = self.paths.iter().chain(self.imports.values());
        paths
            .filter_map(|path| self.absolute(path, &|_| false))
            .collect()
    }

    /// Returns `path` from the crate's root, or `None` for a path of another crate.
    fn absolute(
        &self,
        path: &[String],
        is_module: &dyn Fn(&[String]) -> bool,
    ) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" | "edgepush" => Some(rest.to_vec()),
            "self" => Some([&self.module, rest].concat()),
            "super" => {
                let (mut at, mut rest) = (self.module.as_slice(), path);
                while rest.first().is_some_and(|part| part == "super") {
                    at = at.split_last()?.1;
                    rest = &rest[1..];
                }
                Some([at, rest].concat())
            }
            _ => {
                let child = [self.module.as_slice(), std::slice::from_ref(first)].concat();
                if is_module(&child) {
                    return Some([&child, rest].concat());
                }
                let import = self
                    .imports
                    .get(first)
                    .filter(|import| import.first() != Some(first))?;
                self.absolute(&[import, rest].concat(), is_module)
            }
        }
    }
}

/// Reads every source below `root`, tests left out.
pub(crate) fn read(root: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    walk(Path::new(root), &mut paths);
    paths.sort();
    let is_test = |path: &PathBuf| {
        let stem = path.file_stem().unwrap();
        stem == "tests" || stem == "testing"
    };
    paths.retain(|path| !is_test(path));
    paths.into_iter().map(|path| parse(root, path)).collect()
}

/// Returns the circles among `files`, each as the sorted paths of its files. What a part takes from the root of its own
/// module does not count: the root names its parts in any case.
pub(crate) fn circles(files: &[Source]) -> Vec<Vec<String>> {
    let by_module: BTreeMap<&[String], usize> = files
        .iter()
        .enumerate()
        .map(|(at, file)| (file.module.as_slice(), at))
        .collect();
    let edges: Vec<BTreeSet<usize>> = files
        .iter()
        .enumerate()
        .map(|(at, file)| {
            let paths = file.paths.iter().chain(file.imports.values());
            paths
                .filter_map(|path| defined_in(files, &by_module, at, path, 0))
                .filter(|to| !file.module.starts_with(&files[*to].module))
                .collect()
        })
        .collect();
    let reach: Vec<BTreeSet<usize>> = (0..files.len())
        .map(|from| reachable(&edges, from))
        .collect();
    let mut found = BTreeSet::new();
    for at in 0..files.len() {
        let members: Vec<usize> = reach[at]
            .iter()
            .copied()
            .filter(|to| reach[*to].contains(&at))
            .collect();
        if reach[at].contains(&at) {
            let mut names: Vec<String> = members
                .iter()
                .map(|at| files[*at].path.display().to_string())
                .collect();
            names.sort();
            found.insert(names);
        }
    }
    found.into_iter().collect()
}

fn reachable(edges: &[BTreeSet<usize>], from: usize) -> BTreeSet<usize> {
    let mut seen = BTreeSet::new();
    let mut left: Vec<usize> = edges[from].iter().copied().collect();
    while let Some(at) = left.pop() {
        if seen.insert(at) {
            left.extend(&edges[at]);
        }
    }
    seen
}

/// Returns the file that holds what `path` names, through re-exports. A module's bare name leads nowhere: what is used of
/// it does.
fn defined_in(
    files: &[Source],
    by_module: &BTreeMap<&[String], usize>,
    at: usize,
    path: &[String],
    depth: usize,
) -> Option<usize> {
    let absolute = files[at].absolute(path, &|module| by_module.contains_key(module))?;
    let (module, rest) = (0..=absolute.len())
        .rev()
        .map(|end| absolute.split_at(end))
        .find(|(module, _)| by_module.contains_key(module))?;
    let (to, name) = (by_module[module], rest.first()?);
    match files[to].imports.get(name) {
        Some(import) if to != at && depth < 8 => defined_in(
            files,
            by_module,
            to,
            &[import, &rest[1..]].concat(),
            depth + 1,
        ),
        _ => Some(to),
    }
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn parse(root: &str, path: PathBuf) -> Source {
    let mut module: Vec<String> = path
        .strip_prefix(root)
        .unwrap()
        .with_extension("")
        .iter()
        .map(|part| part.to_str().unwrap().to_owned())
        .collect();
    if module
        .last()
        .is_some_and(|last| ["mod", "lib"].contains(&last.as_str()))
    {
        module.pop();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let tokens: TokenStream = text
        .parse()
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut source = Source {
        path,
        module,
        functions: Vec::new(),
        imports: BTreeMap::new(),
        paths: BTreeSet::new(),
    };
    source.scan(tokens);
    source
}

impl Source {
    fn scan(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            at = match &tokens[at] {
                TokenTree::Punct(p) if p.as_char() == '#' && is_test(tokens.get(at + 1)) => {
                    item_end(&tokens, at + 2)
                }
                TokenTree::Ident(word) if word == "use" => {
                    let end = (at..tokens.len())
                        .find(|i| is_punct(&tokens[*i], ';'))
                        .unwrap_or(tokens.len());
                    self.import(&tokens[at + 1..end], &[]);
                    end
                }
                TokenTree::Ident(word) => {
                    if word == "fn" {
                        self.function(&tokens, at);
                    }
                    self.path(&tokens, at)
                }
                TokenTree::Group(group) => {
                    self.scan(group.stream());
                    at + 1
                }
                _ => at + 1,
            };
        }
    }

    /// Notes the path that begins at `at`, and returns where it ends.
    fn path(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let (path, end) = path(tokens, at);
        if path.len() > 1 {
            self.paths.insert(path);
        }
        end
    }

    fn function(&mut self, tokens: &[TokenTree], at: usize) {
        let Some(TokenTree::Ident(name)) = tokens.get(at + 1) else {
            return;
        };
        let body = tokens[at..]
            .iter()
            .find(|token| is_punct(token, ';') || is_braces(token));
        if let Some(TokenTree::Group(body)) = body {
            let (first, last) = (tokens[at].span().start().line, body.span_close().end().line);
            self.functions.push(Function {
                name: name.to_string(),
                line: first,
                lines: last - first + 1,
            });
        }
    }

    /// Notes one tree of a `use`.
    fn import(&mut self, tokens: &[TokenTree], prefix: &[String]) {
        let trees = tokens.split(|token| is_punct(token, ','));
        for tree in trees.filter(|tree| !tree.is_empty()) {
            let (mut path, end) = path(tree, 0);
            path.splice(0..0, prefix.iter().cloned());
            match tree.get(end) {
                Some(TokenTree::Group(group)) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    self.import(&inner, &path);
                    continue;
                }
                Some(TokenTree::Punct(star)) if star.as_char() == '*' => {
                    path.push("*".to_owned());
                    self.paths.insert(path);
                    continue;
                }
                _ => {}
            }
            if path.last().is_some_and(|last| last == "self") {
                path.pop();
            }
            let Some(last) = path.last() else { continue };
            let name = match (tree.get(end), tree.get(end + 1)) {
                (Some(TokenTree::Ident(_)), Some(TokenTree::Ident(alias))) => alias.to_string(),
                _ => last.clone(),
            };
            self.imports.insert(name, path);
        }
    }
}

/// Returns the identifiers from `at` that `::` joins, and where they end.
fn path(tokens: &[TokenTree], at: usize) -> (Vec<String>, usize) {
    let (mut path, mut end) = (Vec::new(), at);
    while let Some(TokenTree::Ident(part)) = tokens.get(end) {
        path.push(part.to_string());
        end += 1;
        let joined = tokens
            .get(end..end + 2)
            .is_some_and(|two| two.iter().all(|token| is_punct(token, ':')));
        if !joined {
            return (path, end);
        }
        end += 2;
    }
    (path, end.max(at + 1).min(tokens.len()))
}

/// Whether `attribute` is `[cfg(test)]`.
fn is_test(attribute: Option<&TokenTree>) -> bool {
    attribute.is_some_and(|group| group.to_string().replace(' ', "") == "[cfg(test)]")
}

/// Returns where the item that begins at `at` ends: behind its braces or its semicolon.
fn item_end(tokens: &[TokenTree], at: usize) -> usize {
    let end = (at..tokens.len()).find(|i| is_punct(&tokens[*i], ';') || is_braces(&tokens[*i]));
    end.map_or(tokens.len(), |end| end + 1)
}

fn is_punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(p) if p.as_char() == wanted)
}

fn is_braces(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
}

#[test]
fn paths_imports_and_functions_are_read() {
    let text = "
        use crate::job::Job; // crate::fetch
        use crate::{store::{Store, jobs::{a, b as c}}, sys, wire::push::Push as P,};
        //! crate::report
        pub(crate) use crate::
            unpack::x;
        fn f() -> crate::api::model::X { y!(crate::intake::y()) }
        #[cfg(test)]
        mod tests { use crate::cli; }
        let x = mycrate::watch::z;
    ";
    let mut source = Source {
        path: PathBuf::new(),
        module: vec!["here".to_owned()],
        functions: Vec::new(),
        imports: BTreeMap::new(),
        paths: BTreeSet::new(),
    };
    source.scan(text.parse().unwrap());
    let tops: BTreeSet<String> = source
        .named()
        .into_iter()
        .map(|path| path[0].clone())
        .collect();
    let tops: Vec<&str> = tops.iter().map(String::as_str).collect();
    assert_eq!(
        tops,
        ["api", "intake", "job", "store", "sys", "unpack", "wire"]
    );
    assert_eq!(source.imports["c"], ["crate", "store", "jobs", "b"]);
    assert_eq!(
        (source.functions[0].name.as_str(), source.functions[0].lines),
        ("f", 1)
    );
}

#[test]
fn a_circle_through_a_re_export_is_found() {
    let file = |module: &str, text: &str| {
        let mut source = Source {
            path: PathBuf::from(module),
            module: module
                .split("::")
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect(),
            functions: Vec::new(),
            imports: BTreeMap::new(),
            paths: BTreeSet::new(),
        };
        source.scan(text.parse().unwrap());
        source
    };
    let a = file("room::a", "use super::B; pub struct A(B);");
    let room = file(
        "room",
        "mod a; mod b; mod c; pub use b::B; use crate::other::O;",
    );
    let c = file("room::c", "use super::a::A; fn f(_: crate::room::B) {}");
    let apart = file("room::b", "pub struct B;");
    assert!(circles(&[a, room, apart, c]).is_empty());
    let a = file("room::a", "use super::B; pub struct A(B);");
    let room = file("room", "mod a; mod b; pub use b::B;");
    let b = file("room::b", "pub struct B; fn f() { super::a::A::new() }");
    assert_eq!(circles(&[a, room, b]), [["room::a", "room::b"]]);
}
