//! `kiungo embed`: texts to vectors in a file.

use super::common::TextBar;
use super::reader::{Opened, Reader, ReaderArgs};
use crate::formats::safetensors::{CheckpointError, TensorLayout, write_safetensors};
use crate::llama::Layer;
use crate::retrieval::embed::{embed, states};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rayon::prelude::*;
use safetensors::Dtype;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Write the embeddings of texts, at any layers, to a safetensors file
///
/// The file holds one tensor a layer, hidden.LAYER: [texts, hidden size], f32, each row pooled over the text's tokens
/// and of length 1. With --tokens it is [tokens, hidden size] instead, the residual stream as it is, beside
/// the token ids and the offsets of the texts in them (I64; text i holds tokens offsets[i] to offsets[i + 1]).
#[derive(Args)]
pub struct Embed {
    #[command(flatten)]
    reader: ReaderArgs,
    /// Texts, one a line
    #[arg(long, value_name = "FILE")]
    texts: PathBuf,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// The state of every token instead of a vector a text
    #[arg(long)]
    tokens: bool,
}

impl Embed {
    pub fn run(self) -> Result<()> {
        let folder = self.output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        ensure!(folder.is_dir(), "{}: the folder {} does not exist", self.output.display(), folder.display());
        let Embed { reader, texts, output, tokens } = self;
        let reader = reader.resolve()?;
        let [pooling] = reader.poolings[..] else { bail!("--pooling: embed takes one") };
        let mut truncated = 0;
        let texts = ids_of_lines(&texts, &reader, &mut truncated)?;
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let Some(opened) = reader.open(&reader.device()?, std::slice::from_ref(&texts))? else { return Ok(()) };
        let Opened { model, adapters, .. } = &opened;

        let bar = TextBar::new(texts.iter().map(|t| t.len()), "embedding");
        let (layers, advance) = (&reader.layers, |n| bar.advance(n));
        let values: Vec<Vec<f32>> = if tokens {
            states(model, adapters.as_ref(), &texts, layers, advance)?
        } else {
            let embeddings = embed(model, adapters.as_ref(), &texts, layers, pooling, advance)?;
            embeddings.into_iter().map(|e| e.into_values()).collect()
        };
        bar.finish();
        opened.say_peak();
        write(&output, &reader, tokens.then_some(&texts), values)?;
        let (n, output) = (texts.len(), output.display());
        let layers: Vec<String> = layers.iter().map(Layer::to_string).collect();
        println!("{n} texts, {} tokens, at {} to {output}", texts.concat().len(), layers.join(", "));
        if truncated > 0 {
            eprintln!("note: {truncated} texts were cut at {} tokens", reader.max_length);
        }
        Ok(())
    }
}

/// Writes the file; with the tokens of `texts`, where each of them has a row.
fn write(output: &Path, reader: &Reader, texts: Option<&Vec<&[u32]>>, values: Vec<Vec<f32>>) -> Result<()> {
    let hidden = reader.config.hidden_size;
    let mut tensors: BTreeMap<String, (TensorLayout, Vec<u8>)> = BTreeMap::new();
    let mut add = |name: &str, dtype, shape: &[usize], bytes: &[u8]| {
        let layout = TensorLayout { name: name.into(), dtype, shape: shape.to_vec() };
        tensors.insert(name.into(), (layout, bytes.to_vec()));
    };
    for (layer, values) in reader.layers.iter().zip(&values) {
        let shape = [values.len() / hidden, hidden];
        add(&format!("hidden.{layer}"), Dtype::F32, &shape, bytemuck::cast_slice(values));
    }
    if let Some(texts) = texts {
        let ids: Vec<i64> = texts.concat().into_iter().map(i64::from).collect();
        let ends = texts.iter().scan(0, |end, text| {
            *end += text.len() as i64;
            Some(*end)
        });
        let offsets: Vec<i64> = std::iter::once(0).chain(ends).collect();
        add("ids", Dtype::I64, &[ids.len()], bytemuck::cast_slice(&ids));
        add("offsets", Dtype::I64, &[offsets.len()], bytemuck::cast_slice(&offsets));
    }
    let layout: Vec<TensorLayout> = tensors.values().map(|(layout, _)| layout.clone()).collect();
    let pooling = if texts.is_some() { "none".to_string() } else { reader.poolings[0].to_string() };
    let metadata = [("pooling", pooling), ("bos", reader.bos.to_string()), ("format", "pt".into())];
    let metadata = metadata.map(|(key, value)| (key.to_string(), value)).into();
    write_safetensors(output, &layout, &metadata, |tensor| {
        Ok::<_, CheckpointError>(Cow::Borrowed(tensors[&tensor.name].1.as_slice()))
    })?;
    Ok(())
}

/// Token ids of each line of a file.
fn ids_of_lines(path: &Path, reader: &Reader, truncated: &mut usize) -> Result<Vec<Vec<u32>>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let text = std::str::from_utf8(&bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        anyhow::anyhow!("{}:{line}: not UTF-8; save the file as UTF-8", path.display())
    })?;
    let encode = reader.encoding();
    let lines: Vec<&str> = text.lines().collect();
    let ids = |(i, line): (usize, &&str)| {
        let mut cut = 0;
        let ids = encode.ids(line.trim(), &mut cut).with_context(|| format!("{}:{}", path.display(), i + 1))?;
        Ok((ids, cut))
    };
    let (texts, cut): (Vec<Vec<u32>>, Vec<usize>) =
        lines.par_iter().enumerate().map(ids).collect::<Result<Vec<_>>>()?.into_iter().unzip();
    *truncated += cut.into_iter().sum::<usize>();
    ensure!(!texts.is_empty(), "{}: no texts; give one a line", path.display());
    Ok(texts)
}
