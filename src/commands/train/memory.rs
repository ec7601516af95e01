//! What a run holds on its device, and which other runs hold less.

use super::Prepared;
use crate::device::{DType, Device};
use crate::formats::weights::Transfer;
use crate::llama::config::Config;
use crate::llama::encode::Encoder;
use crate::llama::model::Base;
use crate::llama::plan::{During, Ledger, Way, block_bytes};
use crate::llama::random;
use crate::retrieval::embed;
use crate::training::batch::largest_pass;
use crate::training::plan::Plan;
use crate::training::settings::{Dequantize, Method, Settings};
use crate::training::step::FREE_SHARE;

impl Prepared {
    /// All that the run holds.
    pub fn ledger(&self, device: &Device, compute: DType) -> Ledger {
        self.ledger_of(&self.settings, &self.plan, device, compute)
    }

    /// Runs that hold less, the one that gives up least first.
    pub fn ways(&self, device: &Device, compute: DType) -> Vec<Way> {
        let Settings { batch, base, method, .. } = self.settings;
        let dense = self.config.quantization.is_none();
        let mut runs = vec![];
        if base == Base::F32 {
            runs.push(("--base bf16".to_string(), Settings { base: Base::Bf16, ..self.settings.clone() }));
        }
        if !base.is_quantised() && method == Method::Lora && dense {
            runs.push(("--base nf4".to_string(), Settings { base: Base::Nf4, ..self.settings.clone() }));
        }
        let halves = std::iter::successors(Some(batch / 2), |batch| Some(batch / 2)).take_while(|&batch| batch > 1);
        runs.extend(halves.map(|batch| (format!("--batch {batch}"), Settings { batch, ..self.settings.clone() })));
        if method == Method::Full {
            runs.push(("--method lora".to_string(), Settings { method: Method::Lora, ..self.settings.clone() }));
        }
        let peak = |(change, settings): (String, Settings)| {
            let plan = Plan::new(&settings, &self.config, &self.layers).ok()?;
            Some(Way { change, peak: self.ledger_of(&settings, &plan, device, compute).peak() })
        };
        runs.into_iter().filter_map(peak).collect()
    }

    fn ledger_of(&self, settings: &Settings, plan: &Plan, device: &Device, compute: DType) -> Ledger {
        let Prepared { config, checkpoint, data, layers, .. } = self;
        let mut ledger = Ledger::of_model(config, plan.parts, settings.base, self.positions());
        match checkpoint {
            None => ledger.add("a weight that is drawn", random::device_bytes(config, settings.base), During::Loading),
            Some(_) if device.is_cpu() => {}
            Some(checkpoint) => {
                let reading = Transfer::default().device_bytes(checkpoint, config, plan.parts, settings.base);
                ledger.add("buffers of the reader", reading, During::Loading);
            }
        }
        let tokens = largest_pass(data.train(), settings);
        let memory = plan.memory(settings, config, device, compute, tokens, data.train().tokens());
        ledger.add("what learns: gradients, optimizer, copies", memory.learning, During::Running);
        ledger.add(format!("activations of up to {tokens} tokens"), memory.activations, During::Running);
        if let Some(bytes) = dequantised(&ledger, settings, plan, config, device) {
            ledger.add("blocks that steps run, in bf16 in place of codes", bytes, During::Running);
        }
        if memory.prefix > 0 {
            ledger.add("states after the frozen blocks", memory.prefix, During::Running);
        }
        let groups = data.groups.iter().map(|(_, group)| (group.tokens(), 2 * group.len()));
        let (tokens, texts) = groups.chain(data.questions()).max().unwrap_or_default();
        let budget = Encoder::budget_for(device, tokens, data.longest());
        let rank = if settings.method == Method::Lora { settings.rank } else { 0 };
        for (what, bytes) in embed::memory_for(config, compute, rank, budget, texts.min(budget), texts, layers.len()) {
            ledger.add(format!("scoring: {what}"), bytes, During::Running);
        }
        ledger
    }
}

/// What the blocks that steps run take more in bf16 than in 4 bits, where they are [dequantised once](Dequantize).
fn dequantised(ledger: &Ledger, settings: &Settings, plan: &Plan, config: &Config, device: &Device) -> Option<usize> {
    let Device::Cuda(gpu) = device else { return None };
    let bytes = |base| (plan.blocks - plan.prefix) * block_bytes(config, base);
    let (dense, codes) = (bytes(Base::Bf16), bytes(settings.base));
    let once = match settings.dequantize {
        Dequantize::Once => true,
        Dequantize::EachStep => false,
        Dequantize::Auto => gpu.memory().is_some_and(|m| m.free >= ledger.sums()[1] + dense + m.total / FREE_SHARE),
    };
    (settings.base.is_quantised() && once).then_some(dense - codes)
}
