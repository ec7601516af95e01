//! The ways of training that a comparison sets beside each other.

use super::batch::Group;
use super::settings::{Method, Preset, Settings};
use crate::llama::Layer;
use crate::llama::config::Config;
use crate::llama::model::Base;

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
}
crate::words::words! { Arm: "arm" {
    Lora2 = "lora@2", FullBlocks2 = "full-blocks@2", Full2 = "full@2", LoraAll = "lora-all@final",
    LoraEarly = "lora-early@final", FullFinal = "full@final", Paper = "paper", Shuffled = "shuffled",
    LoraNf4 = "lora-nf4@2"
} }

impl Arm {
    /// Those that are compared unless others are asked for.
    pub const USUAL: [Arm; 6] =
        [Arm::Lora2, Arm::FullBlocks2, Arm::Full2, Arm::LoraAll, Arm::LoraEarly, Arm::FullFinal];

    /// All of them.
    pub const ALL: [Arm; 9] = [
        Arm::Lora2,
        Arm::FullBlocks2,
        Arm::Full2,
        Arm::LoraAll,
        Arm::LoraEarly,
        Arm::FullFinal,
        Arm::Paper,
        Arm::Shuffled,
        Arm::LoraNf4,
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
        }
    }

    /// The base that it begins from where the others begin from `others`.
    pub fn base(self, others: Base) -> Base {
        if self == Arm::LoraNf4 { Base::Nf4 } else { others }
    }

    /// Its settings: the preset's with what an arm is about.
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
        if matches!(self, Arm::LoraAll | Arm::LoraEarly | Arm::FullFinal) {
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
