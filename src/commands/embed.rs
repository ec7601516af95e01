//! `kiungo embed`: texts to vectors in a file.

use super::common::TextBar;
use super::reader::{Opened, Reader, ReaderArgs};
use crate::formats::output;
use crate::formats::safetensors::{CheckpointError, TensorLayout, write_safetensors};
use crate::formats::text;
use crate::llama::Layer;
use crate::retrieval::embed::{embed, states};
use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use rayon::prelude::*;
use safetensors::Dtype;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Write the embeddings of texts, at any layers, to a safetensors or npy file
///
/// A safetensors file holds one tensor a layer, hidden.LAYER: [texts, hidden size], f32, each row pooled over the text's
/// tokens and of length 1; an .npy file, which numpy.load reads, one array: [texts, hidden size], of several layers
/// [layers, texts, hidden size]. With --tokens a safetensors file's tensors are [tokens, hidden size] instead, the residual stream as it is, beside
/// the token ids and the offsets of the texts in them (I64; text i holds tokens offsets[i] to offsets[i + 1]).
#[derive(Args)]
pub struct Embed {
    #[command(flatten)]
    reader: ReaderArgs,
    /// Texts, one a line; of a .jsonl file, a field of each line's object
    #[arg(long, value_name = "FILE")]
    texts: PathBuf,
    /// The field of a .jsonl file that holds the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    field: String,
    /// The file to write: .npy, or safetensors under any other name
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
        let Embed { reader, texts, field, output, tokens } = self;
        let is_npy = has_extension(&output, "npy");
        ensure!(
            !(is_npy && tokens),
            "--tokens: an .npy file has one array and no place for offsets; name a .safetensors file"
        );
        let reader = reader.resolve()?;
        let [pooling] = reader.poolings[..] else { bail!("--pooling: embed takes one") };
        let mut truncated = 0;
        let texts = ids_of_lines(&texts, &field, &reader, &mut truncated)?;
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
        match is_npy {
            true => output::write_file(&output, npy(&values, reader.config.hidden_size))?,
            false => write(&output, &reader, tokens.then_some(&texts), values)?,
        }
        let (n, output) = (texts.len(), output.display());
        let layers: Vec<String> = layers.iter().map(Layer::to_string).collect();
        println!("{n} texts, {} tokens, at {} to {output}", texts.concat().len(), layers.join(", "));
        if truncated > 0 {
            eprintln!("note: {truncated} texts were cut at {} tokens", reader.max_length);
        }
        Ok(())
    }
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// NumPy's format, version 1.0: a header in the words of Python, padded to 64 bytes, and the values, the last index fastest.
fn npy(layers: &[Vec<f32>], hidden: usize) -> Vec<u8> {
    let texts = layers.first().map_or(0, |values| values.len() / hidden);
    let shape = match layers.len() {
        1 => format!("({texts}, {hidden})"),
        several => format!("({several}, {texts}, {hidden})"),
    };
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    let before = b"\x93NUMPY\x01\x00".len() + size_of::<u16>();
    let length = (before + header.len() + 1).next_multiple_of(64) - before;
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend(format!("{header:<width$}\n", width = length - 1).bytes());
    layers.iter().flatten().for_each(|value| bytes.extend(value.to_le_bytes()));
    bytes
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

/// The text of a line of JSON.
fn text_of_json(line: &str, field: &str) -> Result<String> {
    let value: Value = serde_json::from_str(line).map_err(|e| anyhow!("not JSON: {e}"))?;
    match value.get(field) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => bail!("the field {field} is no text"),
        None => bail!("no field {field}; name the one that holds the text by --field"),
    }
}

/// Token ids of each line of a file, or of a field of its lines.
fn ids_of_lines(path: &Path, field: &str, reader: &Reader, truncated: &mut usize) -> Result<Vec<Vec<u32>>> {
    let text = text::read(path)?;
    let encode = reader.encoding();
    let is_json = has_extension(path, "jsonl");
    let lines: Vec<&str> = text.lines().collect();
    let ids = |(i, line): (usize, &&str)| {
        let mut cut = 0;
        let line_text = if is_json { text_of_json(line, field).map(Cow::Owned) } else { Ok(Cow::Borrowed(*line)) };
        let ids = line_text.and_then(|text| Ok(encode.ids(text.trim(), &mut cut)?));
        Ok((ids.with_context(|| format!("{}:{}", path.display(), i + 1))?, cut))
    };
    let (texts, cut): (Vec<Vec<u32>>, Vec<usize>) =
        lines.par_iter().enumerate().map(ids).collect::<Result<Vec<_>>>()?.into_iter().unzip();
    *truncated += cut.into_iter().sum::<usize>();
    ensure!(!texts.is_empty(), "{}: no texts; give one a line", path.display());
    Ok(texts)
}
