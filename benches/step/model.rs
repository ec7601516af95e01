//! A Llama 3 8B of random weights: normal values of the width that training starts from.

use half::bf16;
use kiungo::device::{DType, Device, Tensor};
use kiungo::llama::PerProjection;
use kiungo::llama::config::Config;
use kiungo::llama::model::{Base, Block, Model};
use kiungo::ops::linear::Weight;
use kiungo::ops::nf4::{Nf4Tensor, dequantize};
use kiungo::training::plan::Plan;
use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Normal};
use std::path::Path;

const CONFIG: &str = r#"{
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "dtype": "bfloat16",
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 128256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
    "tie_word_embeddings": false, "bos_token_id": 128000, "eos_token_id": 128001
}"#;
/// Longest text.
const POSITIONS: usize = 8192;
const STANDARD_DEVIATION: f32 = 0.02;
/// Values that are drawn; a prime, so that rows that repeat them are no copies of each other.
const DRAWN: usize = 1_048_573;

/// Its architecture.
pub fn llama_3_8b() -> anyhow::Result<Config> {
    Ok(Config::parse(Path::new("Llama 3 8B"), CONFIG)?)
}

/// What a plan needs of it. With `dense`, weights that `base` has in 4 bits are dequantised.
pub fn random(device: &Device, config: &Config, plan: &Plan, base: Base, dense: bool) -> anyhow::Result<Model> {
    let mut noise = Noise::new(device)?;
    let hidden = config.hidden_size;
    let ones = || Tensor::from_vec(device, vec![1.0f32; hidden], &[hidden]);
    let embedding = noise.tensor(&[config.vocab_size, hidden])?;
    let blocks = (0..plan.parts.blocks).map(|_| {
        let linear = PerProjection::try_from_fn(|p| {
            let weight = noise.tensor(&config.shape(p))?;
            held(weight, base, dense)
        })?;
        Ok(Block { input_norm: ones()?, post_norm: ones()?, linear })
    });
    Ok(Model {
        blocks: blocks.collect::<anyhow::Result<_>>()?,
        embedding,
        final_norm: plan.parts.final_norm.then(ones).transpose()?,
        head: None,
        rope: Model::rope_table(config, device, POSITIONS)?,
        config: config.clone(),
        device: device.clone(),
        compute: DType::Bf16,
    })
}

fn held(weight: Tensor, base: Base, dense: bool) -> anyhow::Result<Weight> {
    let double = match base {
        Base::F32 | Base::Bf16 => return Ok(Weight::Dense(weight)),
        Base::Nf4 => false,
        Base::Nf4Double => true,
    };
    let codes = Nf4Tensor::quantize(&weight, double)?;
    if !dense {
        return Ok(Weight::Nf4(codes));
    }
    let mut weight = weight;
    dequantize(&codes, &mut weight)?;
    Ok(Weight::Dense(weight))
}

/// Normal values on the device, drawn once and copied from there.
struct Noise {
    values: Tensor,
    next: usize,
}

impl Noise {
    fn new(device: &Device) -> anyhow::Result<Noise> {
        let values = Normal::new(0.0, STANDARD_DEVIATION)?.sample_iter(StdRng::seed_from_u64(1));
        let values: Vec<bf16> = values.take(DRAWN).map(bf16::from_f32).collect();
        Ok(Noise { values: Tensor::from_vec(device, values, &[DRAWN, 1])?, next: 0 })
    }

    /// bf16 values of that shape, going on where the tensor before ended.
    fn tensor(&mut self, shape: &[usize]) -> anyhow::Result<Tensor> {
        let n: usize = shape.iter().product();
        let mut all = Tensor::uninitialized(&self.values.device(), DType::Bf16, &[n, 1])?;
        let mut at = 0;
        while at < n {
            let count = (DRAWN - self.next).min(n - at);
            all.copy_rows(at, &self.values, self.next, count)?;
            at += count;
            self.next = (self.next + count) % DRAWN;
        }
        Ok(all.reshape(shape)?)
    }
}
