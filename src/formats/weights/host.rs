//! Weights through memory of the host.

use super::LoadError;
use crate::device::{DType, Device, Tensor};
use crate::formats::nf4;
use crate::formats::safetensors::Checkpoint;
use crate::llama::model::{Base, Weights};
use crate::ops::linear::Weight;
use crate::ops::nf4::Nf4Tensor;

/// Reads one tensor after another.
pub struct Reader<'a, P> {
    pub checkpoint: &'a Checkpoint,
    pub base: Base,
    pub device: &'a Device,
    pub progress: P,
}

impl<P: Fn(&str)> Weights for Reader<'_, P> {
    type Error = LoadError;

    fn dense(&mut self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor, LoadError> {
        (self.progress)(name);
        self.checkpoint.expect_shape(name, shape)?;
        Ok(self.checkpoint.read(name, dtype, self.device)?)
    }

    fn linear(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight, LoadError> {
        // What bitsandbytes left out of the quantisation is dense in such a checkpoint too.
        if nf4::is_quantised(self.checkpoint, name) {
            (self.progress)(name);
            return Ok(Weight::Nf4(nf4::read(self.checkpoint, name, shape, self.device)?));
        }
        match self.base {
            Base::F32 | Base::Bf16 => Ok(Weight::Dense(self.dense(name, &shape, self.base.dtype())?)),
            Base::Nf4 | Base::Nf4Double => {
                let weight = self.dense(name, &shape, DType::F32)?;
                Ok(Weight::Nf4(Nf4Tensor::quantize(&weight, self.base == Base::Nf4Double)?))
            }
        }
    }
}
