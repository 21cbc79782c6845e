//! A configured list that may also be `"any"`.

use serde::{Deserialize, Serialize};

/// Everything, or only the values of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Only<T> {
    /// Everything: `"any"`.
    Any,
    /// The listed values.
    These(Vec<T>),
}

impl<T: PartialEq> Only<T> {
    /// Tells whether `value` is included.
    pub fn holds(&self, value: &T) -> bool {
        match self {
            Self::Any => true,
            Self::These(values) => values.contains(value),
        }
    }
}

impl<T: Serialize> Serialize for Only<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => serializer.serialize_str("any"),
            Self::These(values) => values.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Only<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for Visitor<T> {
            type Value = Only<T>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"any\" or a list")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                match text {
                    "any" => Ok(Only::Any),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = seq.next_element()? {
                    values.push(value);
                }
                Ok(Only::These(values))
            }
        }
        deserializer.deserialize_any(Visitor(std::marker::PhantomData))
    }
}
