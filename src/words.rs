//! Choices that users write as words.

/// Gives an enum its words: `Display`, `FromStr` with an error that lists the choices, and serde as a string.
///
/// `words! { Method: "method" { Lora = "lora", Full = "full" } }`
macro_rules! words {
    ($type:ident: $what:literal { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                // `pad`, so that widths in format strings work.
                f.pad(match self { $($type::$variant => $word),+ })
            }
        }

        impl std::str::FromStr for $type {
            type Err = String;
            fn from_str(word: &str) -> std::result::Result<Self, String> {
                match word {
                    $($word => Ok($type::$variant),)+
                    other => Err(format!("{other:?} is no {}: choose one of {}", $what, [$($word),+].join(", "))),
                }
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                $crate::words::as_word::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                $crate::words::as_word::deserialize(deserializer)
            }
        }
    };
}
pub(crate) use words;

/// `#[serde(with = "as_word")]`: a field that is written as its `Display` and read by its `FromStr`.
pub(crate) mod as_word {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::{fmt::Display, str::FromStr};

    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }

    /// `#[serde(with = "as_word::option")]`: the same of a field that may be absent.
    pub mod option {
        use super::*;

        pub fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
            match value {
                Some(value) => serializer.collect_str(value),
                None => serializer.serialize_none(),
            }
        }

        pub fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
        where
            T: FromStr<Err: Display>,
            D: Deserializer<'de>,
        {
            let word = Option::<String>::deserialize(deserializer)?;
            word.map(|word| word.parse().map_err(D::Error::custom)).transpose()
        }
    }
}
