//! Where in the model a state is read.

use super::config::Config;
use crate::words::as_word;

/// A place in the model whose state can be read: after some number of blocks, or after the final norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// The residual stream after this many blocks; 0 is the embedding's output.
    Hidden(usize),
    /// After all blocks and the final norm.
    Final,
}

impl Layer {
    /// Blocks that must run to reach it.
    pub fn blocks(self, config: &Config) -> usize {
        match self {
            Layer::Hidden(l) => l,
            Layer::Final => config.layers,
        }
    }
}

impl std::fmt::Display for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Layer::Hidden(l) => write!(f, "{l}"),
            Layer::Final => f.write_str("final"),
        }
    }
}

impl std::str::FromStr for Layer {
    type Err = String;
    fn from_str(s: &str) -> std::result::Result<Layer, String> {
        match s {
            "final" => Ok(Layer::Final),
            number => number.parse().map(Layer::Hidden).map_err(|_| {
                format!("{s:?} is no layer: give a number of blocks (2 is the state after two) or `final`")
            }),
        }
    }
}

impl serde::Serialize for Layer {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        as_word::serialize(self, serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Layer {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        as_word::deserialize(deserializer)
    }
}
