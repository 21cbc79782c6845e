//! The keys that a configuration type accepts, read from its own `Deserialize`, so that no separate list can
//! go stale. Used for the hint at a misspelt key, and to test that the commented sample is complete.
//!
//! The probe offers a type one key at a time and records what it asks for; nothing is ever built.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// The keys that a type accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// A value without keys of its own.
    Value,
    /// A table with exactly these keys.
    Table(BTreeMap<&'static str, Keys>),
    /// A table with any keys, all of the same kind.
    Map(Box<Keys>),
    /// A list.
    List(Box<Keys>),
}

impl Keys {
    #[must_use]
    pub fn of<T: for<'de> Deserialize<'de>>() -> Self {
        Self::below::<T>(&mut Vec::new())
    }

    fn below<T: for<'de> Deserialize<'de>>(path: &mut Vec<Step>) -> Self {
        match shape_at::<T>(path) {
            Shape::Value => Self::Value,
            Shape::Struct(fields) => Self::Table(
                fields
                    .iter()
                    .map(|name| (*name, Self::at::<T>(path, Step::Field(name))))
                    .collect(),
            ),
            Shape::Map => Self::Map(Self::at::<T>(path, Step::Entry).into()),
            Shape::List => Self::List(Self::at::<T>(path, Step::Element).into()),
        }
    }

    fn at<T: for<'de> Deserialize<'de>>(path: &mut Vec<Step>, step: Step) -> Self {
        path.push(step);
        let keys = Self::below::<T>(path);
        path.pop();
        keys
    }

    /// Returns every key that holds a value, dotted: `listen.http`, `map.*.key`, `list[].key`.
    #[must_use]
    pub fn dotted(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect(String::new(), &mut out);
        out
    }

    fn collect(&self, prefix: String, out: &mut Vec<String>) {
        let join = |name: &str| match prefix.as_str() {
            "" => name.to_owned(),
            _ => format!("{prefix}.{name}"),
        };
        match self {
            Self::Value => out.push(prefix),
            Self::Table(keys) => {
                for (name, below) in keys {
                    below.collect(join(name), out);
                }
            }
            Self::Map(below) => below.collect(join("*"), out),
            Self::List(below) if **below == Self::Value => out.push(prefix),
            Self::List(below) => below.collect(format!("{prefix}[]"), out),
        }
    }

    /// Returns the key that `unknown` was most likely meant to be, if any is close: the same last part
    /// elsewhere, or a few letters different.
    #[must_use]
    pub fn nearest(&self, unknown: &str) -> Option<String> {
        let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let score = |known: &str| {
            let whole = strsim::normalized_damerau_levenshtein(unknown, known);
            let end = strsim::normalized_damerau_levenshtein(&last(unknown), &last(known));
            0.7 * end + 0.3 * whole
        };
        self.with_tables()
            .into_iter()
            .map(|known| (score(&known), known))
            .filter(|(score, _)| *score > 0.6)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, known)| known)
    }

    /// Returns [`Self::dotted`] and the names of the tables.
    fn with_tables(&self) -> Vec<String> {
        let mut all = self.dotted();
        if let Self::Table(keys) = self {
            let tables = keys.iter().filter(|(_, below)| **below != Self::Value);
            all.extend(tables.map(|(name, _)| (*name).to_owned()));
        }
        all
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Field(&'static str),
    Entry,
    Element,
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    Value,
    Struct(&'static [&'static str]),
    Map,
    List,
}

fn shape_at<T: for<'de> Deserialize<'de>>(path: &[Step]) -> Shape {
    let seen = Cell::new(Shape::Value);
    let probe = Probe { path, seen: &seen };
    let _ = T::deserialize(probe);
    seen.get()
}

/// Ends every probe.
#[derive(Debug)]
struct Enough;

impl fmt::Display for Enough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("enough was seen")
    }
}

impl std::error::Error for Enough {}

impl serde::de::Error for Enough {
    fn custom<M: fmt::Display>(_: M) -> Self {
        Self
    }
}

#[derive(Clone, Copy)]
struct Probe<'a> {
    path: &'a [Step],
    seen: &'a Cell<Shape>,
}

impl<'a> Probe<'a> {
    fn note(&self, shape: Shape) -> Enough {
        self.seen.set(shape);
        Enough
    }

    fn one_step_on(&self) -> Probe<'a> {
        Probe {
            path: &self.path[1..],
            seen: self.seen,
        }
    }
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Enough;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Enough> {
        match self.path {
            [] => Err(self.note(Shape::Struct(fields))),
            _ => visitor.visit_map(self),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Enough> {
        match self.path {
            [] => Err(self.note(Shape::Map)),
            _ => visitor.visit_map(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Enough> {
        match self.path {
            [] => Err(self.note(Shape::List)),
            _ => visitor.visit_seq(self),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Enough> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Enough> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Enough> {
        Err(self.note(Shape::Value))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple tuple_struct enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Probe<'_> {
    type Error = Enough;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Enough> {
        let key = match self.path.first() {
            Some(Step::Field(name)) => name,
            _ => "*",
        };
        seed.deserialize(StrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Enough> {
        seed.deserialize(self.one_step_on())
    }
}

impl<'de> SeqAccess<'de> for Probe<'_> {
    type Error = Enough;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Enough> {
        seed.deserialize(self.one_step_on()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::*;

    #[derive(serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    #[derive(Default)]
    struct Outer {
        inner: Inner,
        maybe: Option<Inner>,
        many: Vec<Inner>,
        names: Vec<String>,
        by_name: HashMap<String, Inner>,
    }

    #[derive(serde::Deserialize, Default)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        #[serde(with = "crate::sys::units::duration")]
        wait: Duration,
        #[serde(with = "crate::sys::units::bytes")]
        size: u64,
        maybe: Option<u8>,
    }

    #[test]
    fn finds_every_key_also_where_the_default_is_nothing() {
        let found = Keys::of::<Outer>().dotted();
        let want = [
            "by_name.*.maybe",
            "by_name.*.size",
            "by_name.*.wait",
            "inner.maybe",
            "inner.size",
            "inner.wait",
            "many[].maybe",
            "many[].size",
            "many[].wait",
            "maybe.maybe",
            "maybe.size",
            "maybe.wait",
            "names",
        ];
        assert_eq!(found, want);
    }

    #[test]
    fn hints_at_the_key_that_was_meant() {
        let keys = Keys::of::<Outer>();
        let hint = |unknown| keys.nearest(unknown);
        assert_eq!(hint("inner.siz").as_deref(), Some("inner.size"));
        assert_eq!(hint("inner.wiat").as_deref(), Some("inner.wait"));
        assert_eq!(hint("name").as_deref(), Some("names"));
        assert_eq!(hint("iner").as_deref(), Some("inner"));
        assert!(hint("size").unwrap().ends_with("size"));
        assert_eq!(hint("colour"), None);
    }
}
