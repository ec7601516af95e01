//! The parameters that learn, and their gradients.

use super::optimizer::{LinearUpdates, Parameter};
use super::plan::Plan;
use super::settings::{Master, Method, Settings, When};
use crate::device::{DType, Device, DeviceError, Gpu, Tensor};
use crate::llama::PerProjection;
use crate::llama::adapters::{Adapters, BlockAdapters, Lora};
use crate::llama::backward::{BlockGradients, WeightGradients};
use crate::llama::config::{Config, Projection};
use crate::llama::model::{Block, Model, names};
use crate::ops::linear::Weight;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// What learns in a run.
pub enum Learner {
    /// Adapters; all weights are frozen.
    Lora(LoraLearner),
    /// All weights that the loss reaches.
    Full(Box<FullLearner>),
}

/// Adapters and their gradients, of the same shapes.
pub struct LoraLearner {
    /// The adapters, of learning and idle blocks alike.
    pub adapters: Adapters,
    gradients: Adapters,
    whole: Option<Box<Whole>>,
}

/// All whose gradients are kept as one vector, on a GPU, where they are small: its parts are those parameters, in their order.
/// What is done with each of them then takes one launch.
pub struct Whole {
    /// The values.
    pub values: Tensor,
    /// Their gradients.
    pub gradient: Tensor,
}

/// Gradients of all weights that learn, but those of matrices that learn at once; and f32 master copies, if wanted, of
/// those that the model holds in fewer bits.
pub struct FullLearner {
    embedding: Option<Learned>,
    blocks: Vec<BlockLearned>,
    final_norm: Option<Learned>,
    whole: Option<Box<Whole>>,
}

/// Gradient of one tensor, unless it learns at once, and its master copy, unless the model's own tensor is f32.
struct Learned {
    gradient: Option<Tensor>,
    master: Option<Tensor>,
}

/// What becomes of the embedding's gradient.
pub enum EmbeddingGradient<'a> {
    /// It is added here.
    Kept(&'a mut Tensor),
    /// It is used at once; with the master copy, if there is one.
    AtOnce(&'a mut Option<Tensor>),
}

struct BlockLearned {
    gradients: Gradients,
    masters: PerProjection<Option<Tensor>>,
}

/// What is kept of a block's gradients.
#[expect(clippy::large_enum_variant, reason = "one a block")]
enum Gradients {
    All(WeightGradients),
    Norms { input_norm: Tensor, post_norm: Tensor },
}

impl Learner {
    /// Fresh adapters (A uniform as in PEFT, B zero), or zero gradients for all weights that the plan lets learn. The model's
    /// norms may move to other memory.
    pub fn new(plan: &Plan, settings: &Settings, model: &mut Model) -> Result<Learner, DeviceError> {
        match settings.method {
            Method::Lora => {
                let adapters = fresh_adapters(plan, settings, &model.config, &model.device)?;
                Ok(Learner::Lora(LoraLearner::new(adapters, plan, &model.config, &model.device)?))
            }
            Method::Full => Ok(Learner::Full(Box::new(FullLearner::new(plan, settings, model)?))),
        }
    }

    /// The adapters, if it is they that learn.
    pub fn adapters(&self) -> Option<&Adapters> {
        match self {
            Learner::Lora(lora) => Some(&lora.adapters),
            Learner::Full(_) => None,
        }
    }

    /// Where a block's backward pass adds its gradients, with the adapters that its passes use. `updates` takes those of
    /// linear layers that learn at once.
    pub fn block<'a>(
        &'a mut self,
        block: usize,
        updates: &'a mut LinearUpdates<'a>,
    ) -> (Option<&'a Adapters>, BlockGradients<'a>) {
        match self {
            Learner::Lora(LoraLearner { adapters, gradients, .. }) => {
                let gradients = gradients.blocks.get_mut(&block);
                (Some(&*adapters), gradients.map_or(BlockGradients::Frozen, BlockGradients::Adapters))
            }
            Learner::Full(full) => {
                let first = usize::from(full.embedding.is_some()) + first_linear(block);
                (None, full.blocks[block].gradients(first, updates))
            }
        }
    }

    /// What becomes of the embedding's gradient, if it learns.
    pub fn embedding(&mut self) -> Option<EmbeddingGradient<'_>> {
        let Learner::Full(full) = self else { return None };
        full.embedding.as_mut().map(|Learned { gradient, master }| match gradient {
            Some(gradient) => EmbeddingGradient::Kept(gradient),
            None => EmbeddingGradient::AtOnce(master),
        })
    }

    /// Where the final norm's gradient is added, if it learns.
    pub fn final_norm(&mut self) -> Option<&mut Tensor> {
        match self {
            Learner::Lora(_) => None,
            Learner::Full(full) => full.final_norm.as_mut().and_then(|n| n.gradient.as_mut()),
        }
    }

    /// All that it holds.
    pub fn tensors(&self) -> Vec<&Tensor> {
        match self {
            Learner::Lora(lora) => lora.adapters.tensors().chain(lora.gradients.tensors()).collect(),
            Learner::Full(full) => full.tensors(),
        }
    }

    /// All whose gradients are kept as one vector, where they are one.
    pub fn whole(&mut self) -> Option<&mut Whole> {
        match self {
            Learner::Lora(lora) => lora.whole.as_deref_mut(),
            Learner::Full(full) => full.whole.as_deref_mut(),
        }
    }

    /// All that learns, in a fixed order.
    pub fn parameters<'a>(&'a mut self, model: &'a mut Model) -> Vec<Parameter<'a>> {
        match self {
            Learner::Lora(lora) => lora.parameters(),
            Learner::Full(full) => full.parameters(model),
        }
    }
}

impl LoraLearner {
    /// Trains these adapters; those of idle blocks are left as they are.
    pub fn new(
        mut adapters: Adapters,
        plan: &Plan,
        config: &Config,
        device: &Device,
    ) -> Result<LoraLearner, DeviceError> {
        let zeros_like = |block: &BlockAdapters| {
            PerProjection::try_from_fn(|p| match &block[p] {
                Some(_) => Lora::zeros(config, p, adapters.rank, device).map(Some),
                None => Ok(None),
            })
        };
        let learning = adapters.blocks.iter().filter(|(block, _)| plan.learning.contains(block));
        let blocks = learning.map(|(&block, a)| Ok((block, zeros_like(a)?))).collect::<Result<_, DeviceError>>()?;
        let mut gradients = Adapters { rank: adapters.rank, scale: adapters.scale, blocks };
        let whole = match device {
            Device::Cpu => None,
            Device::Cuda(gpu) => {
                let learning: Vec<usize> = gradients.blocks.keys().copied().collect();
                let learn = adapters.blocks.iter_mut().filter(|(block, _)| learning.contains(block));
                let values = gather(gpu, factors(learn))?;
                Some(Box::new(Whole { values, gradient: gather(gpu, factors(gradients.blocks.iter_mut()))? }))
            }
        };
        Ok(LoraLearner { adapters, gradients, whole })
    }

    fn parameters(&mut self) -> Vec<Parameter<'_>> {
        let mut list = vec![];
        // Idle blocks have adapters but no gradients.
        let learning: Vec<usize> = self.gradients.blocks.keys().copied().collect();
        let adapters = self.adapters.blocks.iter_mut().filter(|(block, _)| learning.contains(block));
        for ((block, adapters), gradients) in adapters.zip(self.gradients.blocks.values_mut()) {
            for ((projection, lora), (_, gradient)) in adapters.iter_mut().zip(gradients.iter_mut()) {
                let (Some(lora), Some(gradient)) = (lora, gradient) else { continue };
                let name = |factor| format!("model.layers.{block}.{}.lora_{factor}.weight", projection.path());
                list.push(own_master(name("A"), &mut lora.a, Some(&mut gradient.a)));
                list.push(own_master(name("B"), &mut lora.b, Some(&mut gradient.b)));
            }
        }
        list
    }
}

/// The factors of adapters, in the order of the parameters.
fn factors<'a>(blocks: impl Iterator<Item = (&'a usize, &'a mut BlockAdapters)>) -> Vec<&'a mut Tensor> {
    let adapters = blocks.flat_map(|(_, block)| block.iter_mut().filter_map(|(_, lora)| lora.as_mut()));
    adapters.flat_map(|lora| [&mut lora.a, &mut lora.b]).collect()
}

/// Moves f32 tensors into one allocation.
fn gather(gpu: &Gpu, tensors: Vec<&mut Tensor>) -> Result<Tensor, DeviceError> {
    let shapes: Vec<Vec<usize>> = tensors.iter().map(|t| t.shape().to_vec()).collect();
    let (whole, parts) = Tensor::parts(gpu, DType::F32, &shapes)?;
    for (tensor, mut part) in tensors.into_iter().zip(parts) {
        part.copy_rows(0, tensor, 0, tensor.rows())?;
        *tensor = part;
    }
    Ok(whole)
}

/// A as PEFT draws it (Kaiming uniform with a = sqrt 5: uniform within 1 / sqrt(in)), B zero.
fn fresh_adapters(plan: &Plan, settings: &Settings, config: &Config, device: &Device) -> Result<Adapters, DeviceError> {
    let mut rng = StdRng::seed_from_u64(settings.seed);
    let mut blocks = std::collections::BTreeMap::new();
    let mut adapted: Vec<usize> = plan.learning.iter().chain(&plan.idle).copied().collect();
    adapted.sort_unstable();
    for block in adapted {
        let adapters = PerProjection::try_from_fn(|projection| {
            if !settings.projections.contains(&projection) {
                return Ok(None);
            }
            let mut lora = Lora::zeros(config, projection, settings.rank, device)?;
            let bound = 1.0 / (lora.a.columns() as f32).sqrt();
            let values: Vec<f32> = (0..lora.a.len()).map(|_| rng.random_range(-bound..bound)).collect();
            lora.a.write(&values)?;
            Ok::<_, DeviceError>(Some(lora))
        })?;
        blocks.insert(block, adapters);
    }
    Ok(Adapters { rank: settings.rank, scale: settings.scale(), blocks })
}

impl Learned {
    fn new(weight: &Tensor, update: When, master: Master) -> Result<Learned, DeviceError> {
        let gradient = match update {
            When::Together => Some(Tensor::zeros(&weight.device(), DType::F32, weight.shape())?),
            When::AtOnce => None,
        };
        Ok(Learned { gradient, master: master_of(weight, master)? })
    }

    fn parameter<'a>(&'a mut self, name: String, weight: &'a mut Tensor) -> Parameter<'a> {
        parameter(name, weight, self.gradient.as_mut(), &mut self.master)
    }
}

fn master_of(weight: &Tensor, master: Master) -> Result<Option<Tensor>, DeviceError> {
    match (weight.dtype(), master) {
        (DType::F32, _) | (_, Master::None) => Ok(None),
        _ => Ok(Some(Tensor::from_vec(&weight.device(), weight.to_f32()?, weight.shape())?)),
    }
}

fn parameter<'a>(
    name: String,
    weight: &'a mut Tensor,
    gradient: Option<&'a mut Tensor>,
    master: &'a mut Option<Tensor>,
) -> Parameter<'a> {
    match master {
        Some(master) => Parameter { name, master, gradient, rounded: Some(weight) },
        None => own_master(name, weight, gradient),
    }
}

fn own_master<'a>(name: String, weight: &'a mut Tensor, gradient: Option<&'a mut Tensor>) -> Parameter<'a> {
    Parameter { name, master: weight, gradient, rounded: None }
}

impl FullLearner {
    fn new(plan: &Plan, settings: &Settings, model: &mut Model) -> Result<FullLearner, DeviceError> {
        let block = |&b: &usize| BlockLearned::new(&model.blocks[b], settings);
        let norm = model.final_norm.as_ref().filter(|_| plan.final_norm);
        let mut learner = FullLearner {
            embedding: plan
                .embedding
                .then(|| Learned::new(&model.embedding, settings.update, settings.master))
                .transpose()?,
            blocks: plan.learning.iter().map(block).collect::<Result<_, _>>()?,
            final_norm: norm.map(|norm| Learned::new(norm, When::Together, settings.master)).transpose()?,
            whole: None,
        };
        // Of all else the gradients are used at once.
        if let (Device::Cuda(gpu), When::AtOnce) = (model.device.clone(), settings.update) {
            let kept = learner.parameters(model).into_iter().filter_map(|p| Some((p.master, p.gradient?)));
            let (values, gradients): (Vec<_>, Vec<_>) = kept.unzip();
            learner.whole = Some(Box::new(Whole { values: gather(&gpu, values)?, gradient: gather(&gpu, gradients)? }));
        }
        Ok(learner)
    }

    fn tensors(&self) -> Vec<&Tensor> {
        let learned = self.embedding.iter().chain(&self.final_norm);
        let mut list: Vec<&Tensor> = learned.flat_map(|l| l.gradient.iter().chain(&l.master)).collect();
        for BlockLearned { gradients, masters } in &self.blocks {
            match gradients {
                Gradients::All(WeightGradients { input_norm, post_norm, linear }) => {
                    list.extend([input_norm, post_norm]);
                    list.extend(linear.iter().map(|(_, gradient)| gradient));
                }
                Gradients::Norms { input_norm, post_norm } => list.extend([input_norm, post_norm]),
            }
            list.extend(masters.iter().filter_map(|(_, master)| master.as_ref()));
        }
        list
    }

    /// The embedding, then each block's norms and linear layers ([`first_linear`] counts on that), then the final norm.
    fn parameters<'a>(&'a mut self, model: &'a mut Model) -> Vec<Parameter<'a>> {
        let mut list = vec![];
        if let Some(embedding) = &mut self.embedding {
            list.push(embedding.parameter(names::EMBEDDING.into(), &mut model.embedding));
        }
        for (i, (learned, block)) in self.blocks.iter_mut().zip(&mut model.blocks).enumerate() {
            list.extend(learned.parameters(i, block));
        }
        if let (Some(learned), Some(norm)) = (&mut self.final_norm, &mut model.final_norm) {
            list.push(learned.parameter(names::FINAL_NORM.into(), norm));
        }
        list
    }
}

/// Of a block's parameters, those before its linear layers.
const NORMS: usize = 2;

/// The place of a block's first linear layer among the parameters of full training, behind the embedding.
fn first_linear(block: usize) -> usize {
    block * (NORMS + Projection::ALL.len()) + NORMS
}

impl BlockLearned {
    fn new(block: &Block, settings: &Settings) -> Result<BlockLearned, DeviceError> {
        let zeros = |t: &Tensor| Tensor::zeros(&t.device(), DType::F32, t.shape());
        let dense = |p: Projection| match &block.linear[p] {
            Weight::Dense(weight) => Ok(weight),
            Weight::Nf4(_) => Err(DeviceError::DType { expected: DType::Bf16, found: DType::U8 }),
        };
        let (input_norm, post_norm) = (zeros(&block.input_norm)?, zeros(&block.post_norm)?);
        let gradients = match settings.update {
            When::AtOnce => Gradients::Norms { input_norm, post_norm },
            When::Together => {
                let linear = PerProjection::try_from_fn(|p| zeros(dense(p)?))?;
                Gradients::All(WeightGradients { input_norm, post_norm, linear })
            }
        };
        let masters = PerProjection::try_from_fn(|p| master_of(dense(p)?, settings.master))?;
        Ok(BlockLearned { gradients, masters })
    }

    fn gradients<'a>(&'a mut self, first_linear: usize, updates: &'a mut LinearUpdates<'a>) -> BlockGradients<'a> {
        match &mut self.gradients {
            Gradients::All(gradients) => BlockGradients::Weights(gradients),
            Gradients::Norms { input_norm, post_norm } => {
                updates.of_block(first_linear, &mut self.masters);
                BlockGradients::AtOnce { input_norm, post_norm, linear: updates }
            }
        }
    }

    fn parameters<'a>(&'a mut self, index: usize, block: &'a mut Block) -> Vec<Parameter<'a>> {
        let Block { input_norm, post_norm, linear } = block;
        let (norms, gradients) = match &mut self.gradients {
            Gradients::All(g) => ([&mut g.input_norm, &mut g.post_norm], Some(&mut g.linear)),
            Gradients::Norms { input_norm, post_norm } => ([input_norm, post_norm], None),
        };
        let [input_gradient, post_gradient] = norms;
        // Norm weights are always f32: they are their own masters.
        let mut list = vec![
            own_master(names::input_norm(index), input_norm, Some(input_gradient)),
            own_master(names::post_norm(index), post_norm, Some(post_gradient)),
        ];
        let mut gradients = gradients.map(PerProjection::iter_mut);
        for ((projection, weight), (_, master)) in linear.iter_mut().zip(self.masters.iter_mut()) {
            let gradient = gradients.as_mut().and_then(|g| g.next()).map(|(_, gradient)| gradient);
            let Weight::Dense(weight) = weight else { continue };
            list.push(parameter(names::linear(index, projection), weight, gradient, master));
        }
        list
    }
}
