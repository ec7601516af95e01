//! The ways of training that a comparison sets beside each other.

use super::batch::Group;
use super::settings::{Method, Preset, Settings};
use crate::llama::Layer;
use crate::llama::config::Config;
use crate::llama::model::Base;
use crate::words::as_word;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A way of training: what learns, and where the loss reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arm {
    /// Adapters in blocks 0 and 1, loss at hidden(2).
    Lora2,
    /// All weights of blocks 0 and 1 without the embedding, loss at hidden(2).
    FullBlocks2,
    /// The same with the embedding.
    Full2,
    /// Adapters in all blocks, loss at `final`.
    LoraAll,
    /// Adapters in blocks 0 and 1, loss at `final`.
    LoraEarly,
    /// All weights, loss at `final`.
    FullFinal,
    /// The recipe of arXiv 2506.15415.
    Paper,
    /// `lora@2` on mismatched pairs.
    Shuffled,
    /// `lora@2` on a base in NF4.
    LoraNf4,
    /// Adapters in so many blocks, those that change the pairs' last tokens most (arXiv 2602.05988), loss at `final`.
    Cka(usize),
}

impl Arm {
    /// Those that are compared unless others are asked for.
    pub const USUAL: [Arm; 6] =
        [Arm::Lora2, Arm::FullBlocks2, Arm::Full2, Arm::LoraAll, Arm::LoraEarly, Arm::FullFinal];

    /// All that have one name: `cka:N` has a number.
    pub const NAMED: [(Arm, &str); 9] = [
        (Arm::Lora2, "lora@2"),
        (Arm::FullBlocks2, "full-blocks@2"),
        (Arm::Full2, "full@2"),
        (Arm::LoraAll, "lora-all@final"),
        (Arm::LoraEarly, "lora-early@final"),
        (Arm::FullFinal, "full@final"),
        (Arm::Paper, "paper"),
        (Arm::Shuffled, "shuffled"),
        (Arm::LoraNf4, "lora-nf4@2"),
    ];

    /// What it is there to tell.
    pub fn why(self) -> &'static str {
        match self {
            Arm::Lora2 => "adapters in blocks 0 and 1, loss at hidden(2): the method in question",
            Arm::FullBlocks2 => "the same blocks with all their weights: is the low rank what matters?",
            Arm::Full2 => "and the embedding: do the words' own vectors matter?",
            Arm::LoraAll => "adapters everywhere, loss at final: does depth matter?",
            Arm::LoraEarly => "adapters in blocks 0 and 1, loss at final: does the loss's place matter?",
            Arm::FullFinal => "all weights, loss at final: full fine-tuning",
            Arm::Paper => "the published recipe, which may collapse",
            Arm::Shuffled => "lora@2 on mismatched pairs: what spreading out alone gives",
            Arm::LoraNf4 => "lora@2 on a 4-bit base",
            Arm::Cka(_) => "adapters in the blocks that change most (CKA), loss at final: does it matter which blocks?",
        }
    }

    /// The base that it begins from where the others begin from `others`.
    pub fn base(self, others: Base) -> Base {
        if self == Arm::LoraNf4 { Base::Nf4 } else { others }
    }

    /// Its settings: the preset's with what an arm is about. The blocks of [`Arm::Cka`] are for who has the model to choose.
    pub fn settings(self, config: &Config) -> Settings {
        let (method, preset) = match self {
            Arm::FullBlocks2 | Arm::Full2 | Arm::FullFinal => (Method::Full, Preset::Clean),
            Arm::Paper => (Method::Lora, Preset::Paper),
            _ => (Method::Lora, Preset::Clean),
        };
        let mut settings = Settings::preset(preset, method, config);
        match self {
            Arm::LoraAll => settings.blocks = (0..config.layers).collect(),
            Arm::LoraNf4 => settings.base = Base::Nf4,
            Arm::FullBlocks2 => settings.freeze_embedding = true,
            _ => {}
        }
        if matches!(self, Arm::LoraAll | Arm::LoraEarly | Arm::FullFinal | Arm::Cka(_)) {
            settings.target = Layer::Final;
        }
        settings
    }

    /// The pairs that it learns from.
    pub fn group(self, train: &Group) -> Group {
        let mut group = train.clone();
        if self == Arm::Shuffled {
            // Every source gets the target of a pair far from it in the file.
            let by = group.len() / 2;
            group.targets.rotate_left(by);
            let targets: Vec<String> = train.pairs.iter().map(|p| p.target.clone()).collect();
            let partners = targets.iter().cycle().skip(by);
            group.pairs.iter_mut().zip(partners).for_each(|(pair, target)| pair.target = target.clone());
        }
        group
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Arm::NAMED.iter().find(|(arm, _)| arm == self).map(|(_, name)| *name);
        match (named, self) {
            (_, Arm::Cka(blocks)) => f.pad(&format!("cka:{blocks}")),
            (name, _) => f.pad(name.unwrap_or_default()),
        }
    }
}

impl FromStr for Arm {
    type Err = String;
    fn from_str(word: &str) -> Result<Arm, String> {
        let named = Arm::NAMED.iter().find(|(_, name)| *name == word).map(|(arm, _)| *arm);
        let chosen = || word.strip_prefix("cka:")?.parse().ok().filter(|blocks| *blocks > 0).map(Arm::Cka);
        named.or_else(chosen).ok_or_else(|| {
            let names: Vec<&str> = Arm::NAMED.iter().map(|(_, name)| *name).collect();
            format!("{word:?} is no arm: choose of {}, cka:N", names.join(", "))
        })
    }
}

impl Serialize for Arm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        as_word::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Arm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Arm, D::Error> {
        as_word::deserialize(deserializer)
    }
}
