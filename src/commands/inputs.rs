//! Files that commands read, turned into tokens and tensors, with what was dropped or cut said in notes.

use crate::device::Device;
use crate::formats::collection::Collection;
use crate::formats::pairs::Pair;
use crate::formats::peft;
use crate::formats::text;
use crate::formats::tokenizer::Encoding;
use crate::llama::Layer;
use crate::llama::adapters::Adapters;
use crate::llama::config::Config;
use crate::training::batch::Group;
use anyhow::{Result, bail, ensure};
use std::path::{Path, PathBuf};

/// A group of pairs as tokens, and how many of its texts were cut.
pub fn group(encode: &Encoding, pairs: Vec<Pair>) -> Result<(Group, usize)> {
    let mut truncated = 0;
    let sources = pairs.iter().map(|p| encode.ids(&p.source, &mut truncated)).collect::<Result<_, _>>()?;
    let targets = pairs.iter().map(|p| encode.ids(&p.target, &mut truncated)).collect::<Result<_, _>>()?;
    Ok((Group { pairs, sources, targets }, truncated))
}

/// Token ids of a file's lines that hold something, at most `count` of them.
pub fn lines(path: &Path, encode: &Encoding, count: usize) -> Result<Vec<Vec<u32>>> {
    let text = text::read(path)?;
    let lines = text.lines().filter(|line| !line.trim().is_empty()).take(count);
    let ids: Vec<Vec<u32>> = lines.map(|line| encode.ids(line, &mut 0)).collect::<Result<_, _>>()?;
    ensure!(!ids.is_empty(), "{}: no text in it; give one a line", path.display());
    Ok(ids)
}

/// Data sets in the languages asked for, of those that have them, and in English.
pub fn collections(paths: &[PathBuf], languages: Option<&[String]>) -> Result<Vec<Collection>> {
    let mut collections = paths.iter().map(|path| Collection::open(path)).collect::<Result<Vec<_>, _>>()?;
    let Some(languages) = languages else { return Ok(collections) };
    let there: Vec<String> = collections.iter().flat_map(|c| c.languages.clone()).collect();
    if let Some(missing) = languages.iter().find(|code| !there.contains(code)) {
        let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
        bail!("{}: nothing in {missing}; languages there: {}", paths.join(", "), there.join(", "));
    }
    for collection in &mut collections {
        let asked = collection.question_languages();
        if asked.iter().any(|&l| languages.contains(&collection.languages[l])) {
            collection.restrict(languages);
        }
    }
    Ok(collections)
}

/// Layers that the model has.
pub fn check_layers(layers: &[Layer], config: &Config) -> Result<()> {
    ensure!(!layers.is_empty(), "--layers is empty: give numbers of blocks from 0 to {}, or final", config.layers);
    for layer in layers {
        ensure!(layer.blocks(config) <= config.layers, "--layers {layer}: the model has {} blocks", config.layers);
    }
    Ok(())
}

/// A PEFT adapter as tensors on a device. Settings that this version does not know are named.
pub fn adapters(folder: &Path, config: &Config, device: &Device) -> Result<Adapters> {
    let adapter = peft::Adapter::open(folder, config)?;
    if !adapter.config.unknown.is_empty() {
        let (folder, unknown) = (folder.display(), adapter.config.unknown.join(", "));
        eprintln!("note: {folder}: settings of a newer PEFT are ignored: {unknown}");
    }
    Ok(adapter.on_device(device)?)
}
