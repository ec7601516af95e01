//! The memory that a model and its passes take on a device, byte by byte, known before anything is read.

use super::Parts;
use super::config::{Config, Projection};
use super::model::{Base, names};
use crate::device::{DType, Memory};
use crate::ops::nf4::Nf4Tensor;

/// When memory is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum During {
    /// While weights are read.
    Loading,
    /// From then on.
    Running,
    /// From beginning to end.
    Always,
}

/// Bytes for one use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The use.
    pub what: String,
    /// Bytes.
    pub bytes: usize,
    /// When they are held.
    pub during: During,
}

/// All that a run holds on a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    rows: Vec<Row>,
}

impl Ledger {
    /// The weights of a model's parts, as a base precision holds them, and the rotary angles of `positions` positions.
    /// Over a 4-bit base, room for a weight that is dequantised, too.
    pub fn of_model(config: &Config, parts: Parts, base: Base, positions: usize) -> Ledger {
        let mut ledger = Ledger::default();
        let table = config.vocab_size * config.hidden_size * base.dtype().size();
        ledger.add(format!("embedding, {}", base.dtype()), table, During::Always);
        if parts.blocks > 0 {
            let what = match parts.blocks {
                1 => format!("block 0, {base}"),
                many => format!("blocks 0 to {}, {base}", many - 1),
            };
            ledger.add(what, parts.blocks * block_bytes(config, base), During::Always);
        }
        if parts.final_norm {
            ledger.add("final norm, f32", config.hidden_size * DType::F32.size(), During::Always);
        }
        if parts.head && !config.tie_word_embeddings {
            ledger.add(format!("head, {}", base.dtype()), table, During::Always);
        }
        ledger.add("rotary angles", positions * config.head_dim * DType::F32.size(), During::Always);
        if base.is_quantised() && parts.blocks > 0 {
            let largest = linear_sizes(config).max().unwrap_or(0);
            ledger.add("a weight dequantised", largest * DType::Bf16.size(), During::Running);
        }
        ledger
    }

    /// Adds a use.
    pub fn add(&mut self, what: impl Into<String>, bytes: usize, during: During) {
        self.rows.push(Row { what: what.into(), bytes, during });
    }

    /// The uses.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Bytes held while weights are read, and from then on.
    pub fn sums(&self) -> [usize; 2] {
        [During::Loading, During::Running].map(|phase| {
            let held = self.rows.iter().filter(|row| row.during == phase || row.during == During::Always);
            held.map(|row| row.bytes).sum()
        })
    }

    /// The most bytes held at once.
    pub fn peak(&self) -> usize {
        self.sums().into_iter().max().unwrap_or(0)
    }

    /// An error where the memory has no room for it; `ways` are other runs, the one that gives up least first, and what
    /// they would hold at most.
    pub fn fit(&self, memory: Memory, ways: impl FnOnce() -> Vec<Way>) -> Result<(), TooLarge> {
        let Memory { free, total, held, .. } = memory;
        let needed = self.peak();
        if needed <= free {
            return Ok(());
        }
        let mut ways = ways();
        ways.retain(|way| way.peak < needed);
        if ways.iter().any(|way| way.peak <= free) {
            ways.retain(|way| way.peak <= free);
        } else {
            ways.sort_by_key(|way| way.peak);
        }
        ways.truncate(TooLarge::WAYS);
        Err(TooLarge { needed, free, total, others: total.saturating_sub(free + held), ways })
    }
}

/// Another run that takes less memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// What to change, as arguments of the command.
    pub change: String,
    /// The most bytes that would be held at once.
    pub peak: usize,
}

/// The device has no room for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// Bytes that are needed at once.
    pub needed: usize,
    /// Bytes that nobody holds.
    pub free: usize,
    /// Bytes there are.
    pub total: usize,
    /// Bytes that other programs hold, and the driver.
    pub others: usize,
    /// What would fit; or where nothing does, what comes closest.
    pub ways: Vec<Way>,
}

impl TooLarge {
    /// Ways out that are named.
    const WAYS: usize = 2;
}

impl std::error::Error for TooLarge {}

impl std::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let TooLarge { needed, free, total, others, ways } = self;
        write!(f, "not enough GPU memory: {needed} bytes are needed, and {free} of {total} are free")?;
        write!(f, " ({others} are held by other programs and the driver)")?;
        let enough = ways.iter().any(|way| way.peak <= *free);
        for (i, way) in ways.iter().enumerate() {
            let before = match (i, enough) {
                (0, true) => ". What would do: ",
                (0, false) => ". Nothing alone would do; what comes closest: ",
                _ => ", or ",
            };
            write!(f, "{before}{} ({} bytes)", way.change, way.peak)?;
        }
        Ok(())
    }
}

/// Values of each linear layer of a block.
fn linear_sizes(config: &Config) -> impl Iterator<Item = usize> {
    Projection::ALL.into_iter().map(|p| config.shape(p).iter().product())
}

/// Bytes of a block's weights.
pub fn block_bytes(config: &Config, base: Base) -> usize {
    let linear = |values: usize| match base {
        Base::F32 | Base::Bf16 => values * base.dtype().size(),
        Base::Nf4 => Nf4Tensor::bytes_for(values, false),
        Base::Nf4Double => Nf4Tensor::bytes_for(values, true),
    };
    linear_sizes(config).map(linear).sum::<usize>() + 2 * config.hidden_size * DType::F32.size()
}

/// Bytes of the weights of a model's parts.
pub fn weight_bytes(config: &Config, parts: Parts, base: Base) -> usize {
    let table = config.vocab_size * config.hidden_size * base.dtype().size();
    let head = if parts.head && !config.tie_word_embeddings { table } else { 0 };
    let norm = if parts.final_norm { config.hidden_size * DType::F32.size() } else { 0 };
    table + parts.blocks * block_bytes(config, base) + norm + head
}

/// What is read of a checkpoint's tensors: those that `parts` need, by name.
pub fn is_read(parts: Parts, name: &str) -> bool {
    names::is_weight(name) && parts.need(name)
}
