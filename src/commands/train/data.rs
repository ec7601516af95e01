//! Where a run's model and data come from, and the data as tokens.

use super::Train;
use super::folder::RunFolder;
use crate::commands::inputs;
use crate::commands::model::Source;
use crate::formats::pairs::{self, Pair};
use crate::formats::tokenizer::Encoding;
use crate::llama::config::Quantization;
use crate::llama::model::Base;
use crate::retrieval::questions::Questions;
use crate::training::batch::Group;
use crate::training::settings::Settings;
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

/// Shares of train, dev and control where one file of pairs is split.
const SHARES: [f64; 3] = [0.8, 0.1, 0.1];

/// The files and folders of a run.
pub struct Sources {
    /// Where the model comes from.
    pub model: Source,
    /// Words about what was chosen.
    pub notes: Vec<String>,
    pairs: PathBuf,
    dev: Option<PathBuf>,
    control: Option<PathBuf>,
    xquad: Option<PathBuf>,
    languages: Option<Vec<String>>,
}

impl Sources {
    /// What the user named; what is missing is built in.
    pub fn resolve(args: &Train, folder: &RunFolder) -> Result<Sources> {
        let mut notes = vec![];
        let (dev, control, languages) = (args.dev.clone(), args.control.clone(), args.languages.clone());
        if let (Some(model), Some(pairs)) = (&args.model, &args.pairs) {
            let (model, pairs, xquad) = (model.clone(), pairs.clone(), args.xquad.clone());
            return Ok(Sources { model, notes, pairs, dev, control, xquad, languages });
        }
        let built_in = folder.input()?;
        if args.model.is_none() {
            notes.push(
                "The model is built in and its weights are random: figures show that the program works, not what a language model knows. Pass --model DIR (a Llama in Hugging Face's layout) and --pairs FILE for a real run."
                    .into(),
            );
        }
        if args.pairs.is_none() {
            notes.push(
                "The pairs are the 310 Swahili-English words that are built in; pass --pairs FILE for others.".into(),
            );
        }
        let xquad = args.xquad.clone().or(args.model.is_none().then_some(built_in.xquad));
        Ok(Sources {
            model: args.model.clone().unwrap_or(Source::Folder(built_in.model)),
            pairs: args.pairs.clone().unwrap_or(built_in.pairs),
            notes,
            dev,
            control,
            xquad,
            languages,
        })
    }

    /// Files that were named, and no questions.
    pub fn named(model: &Source, pairs: &Path, dev: Option<&Path>, control: Option<&Path>) -> Sources {
        Sources {
            model: model.clone(),
            notes: vec![],
            pairs: pairs.into(),
            dev: dev.map(PathBuf::from),
            control: control.map(PathBuf::from),
            xquad: None,
            languages: None,
        }
    }

    /// The base precision of a checkpoint that is 4-bit on disk; another one cannot be had from it.
    pub fn quantised_base(&self, quantization: &Quantization, asked: Option<Base>) -> Result<Base> {
        let stored = Base::stored(quantization);
        match asked {
            Some(other) if other != stored => bail!(
                "{}: the checkpoint holds {stored} weights, which cannot be read as {other}; leave --base out",
                self.model
            ),
            _ => Ok(stored),
        }
    }

    /// SHA-256 of every data file, by path.
    pub fn checksums(&self) -> Result<BTreeMap<String, String>> {
        let named = [Some(&self.pairs), self.dev.as_ref(), self.control.as_ref()];
        let mut files: Vec<PathBuf> = named.into_iter().flatten().cloned().collect();
        if let Some(folder) = &self.xquad {
            files.extend(question_files(folder)?);
        }
        files.iter().map(|path| checksum(path)).collect()
    }
}

/// A file's path and its SHA-256.
pub fn checksum(path: &Path) -> Result<(String, String)> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let digest = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
    Ok((path.display().to_string(), digest))
}

/// The data set itself, where it is a file, or the files of its folder.
fn question_files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.into()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
    let is_data = |p: &PathBuf| p.extension().is_some_and(|e| e == "json" || e == "jsonl");
    Ok(entries.flatten().map(|e| e.path()).filter(is_data).collect())
}

/// The data of a run, as tokens.
pub struct Data {
    /// train, dev, control; the last two may be empty.
    pub groups: Vec<(&'static str, Group)>,
    /// Data sets of questions.
    pub questions: Vec<Questions>,
    /// What was dropped or cut, in words.
    pub notes: Vec<String>,
}

impl Data {
    /// Reads and tokenises.
    pub fn read(sources: &Sources, encode: &Encoding, settings: &Settings) -> Result<Data> {
        let mut notes = vec![];
        let pairs = read_groups(sources, settings, &mut notes)?;
        let train = pairs[0].len();
        ensure!(
            train >= settings.batch,
            "{}: {train} pairs to learn from, fewer than a batch of {}; add pairs, or lower --batch",
            sources.pairs.display(),
            settings.batch
        );
        let mut groups = vec![];
        for (name, pairs) in ["train", "dev", "control"].into_iter().zip(pairs) {
            let (group, truncated) = inputs::group(encode, pairs)?;
            if truncated > 0 {
                notes.push(format!("{truncated} texts of the {name} pairs were cut at {} tokens.", encode.max_length));
            }
            groups.push((name, group));
        }
        let paths: Vec<PathBuf> = sources.xquad.iter().cloned().collect();
        let collections = inputs::collections(&paths, sources.languages.as_deref())?;
        let tokens = collections.into_iter().map(|collection| Questions::new(collection, encode));
        let questions: Vec<Questions> = tokens.collect::<Result<_, _>>()?;
        for set in &questions {
            notes.extend(set.collection.notes.iter().cloned());
            notes.extend(set.cuts(encode.max_length));
        }
        Ok(Data { groups, questions, notes })
    }

    /// Tokens and texts of each question set.
    pub fn questions(&self) -> impl Iterator<Item = (usize, usize)> {
        let tokens = |set: &Questions| set.lists().iter().flatten().map(|text| text.len()).sum();
        self.questions.iter().map(move |set| (tokens(set), set.texts()))
    }

    /// The longest text, tokens.
    pub fn longest(&self) -> usize {
        let groups = self.groups.iter().map(|(_, g)| g.longest());
        groups.chain(self.questions.iter().map(Questions::longest)).max().unwrap_or(1)
    }
}

/// Train, dev and control, from files of their own or split from one.
fn read_groups(sources: &Sources, settings: &Settings, notes: &mut Vec<String>) -> Result<[Vec<Pair>; 3]> {
    let mut read = |path: &Path| -> Result<Vec<Pair>> {
        let read = pairs::read(path, None)?;
        if read.duplicates > 0 {
            notes.push(format!("{}: {} pairs that came twice were dropped.", path.display(), read.duplicates));
        }
        if read.respelled > 0 {
            notes.push(format!("{}: {} cedilla letters became comma-below ones.", path.display(), read.respelled));
        }
        Ok(read.pairs)
    };
    let all = read(&sources.pairs)?;
    if sources.dev.is_none() && sources.control.is_none() {
        let split = pairs::split(&all, settings.seed, &SHARES)?;
        if split.straddling > 0 {
            notes.push(format!("{} pairs whose words fall into two groups were dropped.", split.straddling));
        }
        let [train, dev, control] = <[Vec<Pair>; 3]>::try_from(split.groups).unwrap_or_default();
        return Ok([train, dev, control]);
    }
    let mut other = |path: &Option<PathBuf>| path.as_deref().map_or(Ok(vec![]), &mut read);
    let (dev, control) = (other(&sources.dev)?, other(&sources.control)?);
    for (name, group) in [("dev", &dev), ("control", &control)] {
        let shared = shared_words(&all, group);
        if shared > 0 {
            notes.push(format!("{shared} {name} pairs share a word with the pairs that are trained on."));
        }
        if group.is_empty() {
            notes.push(format!("No {name} pairs were given: nothing is said of them."));
        }
    }
    Ok([all, dev, control])
}

fn shared_words(train: &[Pair], group: &[Pair]) -> usize {
    let sources: HashSet<&str> = train.iter().map(|p| p.source.as_str()).collect();
    let targets: HashSet<&str> = train.iter().map(|p| p.target.as_str()).collect();
    group.iter().filter(|p| sources.contains(p.source.as_str()) || targets.contains(p.target.as_str())).count()
}
