//! Linear weights that bitsandbytes quantised to NF4 and transformers saved.
//!
//! Beside the codes of `P.weight` lie `P.weight.absmax`, `P.weight.quant_map`, with double quantisation
//! `P.weight.nested_absmax` and `P.weight.nested_quant_map`, and `P.weight.quant_state.bitsandbytes__nf4`: a JSON
//! text as bytes, with the shape and the sizes of blocks.

mod write;

pub use write::{SaveError, write_model};

use super::safetensors::{Checkpoint, CheckpointError};
use crate::device::{Device, Tensor};
use crate::ops::nf4::{BLOCK, LEVELS, NESTED_BLOCK, Nf4Tensor, Scales};
use serde::Deserialize;

/// True where the checkpoint holds the weight in 4 bits, be they NF4 or FP4.
pub fn is_quantised(checkpoint: &Checkpoint, weight: &str) -> bool {
    ["nf4", "fp4"].iter().any(|kind| checkpoint.contains(&state_name(weight, kind)))
}

/// The shape of a weight in 4 bits, `[out, in]`, as its quantisation state says.
pub fn shape(checkpoint: &Checkpoint, weight: &str) -> Result<[usize; 2], CheckpointError> {
    let reader = Reader { checkpoint, weight };
    let shape = reader.state()?.shape;
    let codes = checkpoint.tensor(weight)?.bytes();
    match shape.as_slice() {
        &[out, columns] if out.checked_mul(columns) == codes.checked_mul(2) => Ok([out, columns]),
        _ => Err(reader.error(format!("shape {shape:?} is not that of a matrix in {codes} bytes of codes"))),
    }
}

/// Reads a weight of shape `[out, in]` onto a device, as it was quantised: codes and scales, bit for bit.
pub fn read(
    checkpoint: &Checkpoint,
    weight: &str,
    shape: [usize; 2],
    device: &Device,
) -> Result<Nf4Tensor, CheckpointError> {
    let scales = scales(checkpoint, weight, shape, device)?;
    let codes = checkpoint.read_bytes(weight)?;
    Ok(Nf4Tensor { shape, codes: Tensor::from_vec(device, codes, &[shape[0] * shape[1] / 2])?, scales })
}

/// The scales of such a weight alone, once all is checked that can be without its codes: they are the `out * in / 2` bytes
/// of the tensor itself.
pub fn scales(
    checkpoint: &Checkpoint,
    weight: &str,
    shape: [usize; 2],
    device: &Device,
) -> Result<Scales, CheckpointError> {
    let reader = Reader { checkpoint, weight };
    let state = reader.state()?;
    if state.shape != shape {
        return Err(checkpoint.shape_error(weight, &shape, &state.shape));
    }
    let values = shape[0] * shape[1];
    if !values.is_multiple_of(BLOCK) {
        return Err(reader.error(format!("{values} values are no whole number of blocks of {BLOCK}")));
    }
    reader.check_levels()?;
    // The codes may be stored under any type; their bytes are the same.
    let codes = checkpoint.tensor(weight)?.bytes();
    if codes != values / 2 {
        return Err(reader.error(format!("{codes} bytes of codes, expected {}", values / 2)));
    }
    match state.nested {
        None => {
            let absmax = reader.floats("absmax", values / BLOCK)?;
            Ok(Scales::Plain { absmax: Tensor::from_vec(device, absmax, &[values / BLOCK])? })
        }
        Some(offset) => reader.double(values / BLOCK, offset, device),
    }
}

/// What the JSON text says, as far as it is used.
#[derive(Deserialize)]
struct Json {
    quant_type: String,
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

/// What is left of it once it is checked.
struct State {
    shape: Vec<usize>,
    /// The offset of the scales, where they are quantised too.
    nested: Option<f32>,
}

struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    weight: &'a str,
}

impl Reader<'_> {
    fn error(&self, message: impl Into<String>) -> CheckpointError {
        self.checkpoint.quantised_error(self.weight, message.into())
    }

    fn state(&self) -> Result<State, CheckpointError> {
        self.checkpoint.tensor(self.weight)?;
        let name = state_name(self.weight, "nf4");
        if !self.checkpoint.contains(&name) {
            let fp4 = self.checkpoint.contains(&state_name(self.weight, "fp4"));
            let found = if fp4 { "FP4" } else { "without a quantisation state" };
            return Err(self.error(format!("{found}; only NF4 is read: quantise with bnb_4bit_quant_type=\"nf4\"")));
        }
        let text = self.checkpoint.read_bytes(&name)?;
        let json: Json = serde_json::from_slice(&text).map_err(|e| self.error(format!("quantisation state: {e}")))?;
        if json.quant_type != "nf4" {
            return Err(self.error(format!("quant_type is {:?}, expected nf4", json.quant_type)));
        }
        self.check_block("blocksize", json.blocksize, BLOCK)?;
        let nested = match (json.nested_blocksize, json.nested_offset) {
            (None, None) => None,
            (Some(size), Some(offset)) if offset.is_finite() => {
                self.check_block("nested_blocksize", size, NESTED_BLOCK)?;
                Some(offset)
            }
            (Some(_), Some(offset)) => return Err(self.error(format!("nested_offset is {offset}"))),
            _ => return Err(self.error("nested_blocksize and nested_offset must come together")),
        };
        Ok(State { shape: json.shape, nested })
    }

    fn check_block(&self, what: &str, found: usize, expected: usize) -> Result<(), CheckpointError> {
        if found == expected {
            return Ok(());
        }
        Err(self
            .error(format!("{what} is {found}, the kernels need {expected}: quantise again with {what} {expected}")))
    }

    /// The file's code book must be NF4's; another would dequantise to other values without a word.
    fn check_levels(&self) -> Result<(), CheckpointError> {
        let map = self.floats("quant_map", LEVELS.len())?;
        match map.iter().zip(LEVELS).position(|(found, level)| (found - level).abs() > 1e-6) {
            None => Ok(()),
            Some(i) => Err(self.error(format!("quant_map[{i}] is {}, NF4 has {}", map[i], LEVELS[i]))),
        }
    }

    fn double(&self, blocks: usize, offset: f32, device: &Device) -> Result<Scales, CheckpointError> {
        let codes = self.checkpoint.read_bytes(&self.beside("absmax"))?;
        if codes.len() != blocks {
            return Err(self.error(format!("{} bytes of absmax, expected {blocks}", codes.len())));
        }
        let nested_blocks = blocks.div_ceil(NESTED_BLOCK);
        let nested = self.floats("nested_absmax", nested_blocks)?;
        let map = self.floats("nested_quant_map", 256)?;
        Ok(Scales::Double {
            codes: Tensor::from_vec(device, codes, &[blocks])?,
            nested: Tensor::from_vec(device, nested, &[nested_blocks])?,
            map: Tensor::from_vec(device, map, &[256])?,
            offset: Tensor::from_vec(device, vec![offset], &[1])?,
        })
    }

    fn beside(&self, part: &str) -> String {
        format!("{}.{part}", self.weight)
    }

    fn floats(&self, part: &str, count: usize) -> Result<Vec<f32>, CheckpointError> {
        let name = self.beside(part);
        self.checkpoint.expect_shape(&name, &[count])?;
        self.checkpoint.read_f32(&name)
    }
}

fn state_name(weight: &str, kind: &str) -> String {
    format!("{weight}.quant_state.bitsandbytes__{kind}")
}
