//! `kiungo eval`: question-to-passage retrieval of a model, with or without an adapter.

use super::common::TextBar;
use super::inputs;
use super::reader::{Opened, Reader, ReaderArgs};
use crate::device::Device;
use crate::formats::output::{self, NewFile};
use crate::formats::pairs;
use crate::llama::Layer;
use crate::llama::adapters::Adapters;
use crate::llama::model::Model;
use crate::report::{Report, Section, Table};
use crate::retrieval::embed::{Reading, embed_all};
use crate::retrieval::maps::{Fit, Map};
use crate::retrieval::questions::{Questions, Vectors};
use crate::retrieval::rows::Row;
use crate::retrieval::statistics::Bootstrap;
use crate::retrieval::views::{Treatment, View, Views, judge, views};
use crate::retrieval::{ranks, rows};
use crate::training::batch::Group;
use anyhow::{Context, Result};
use clap::Args;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Score how well questions find the passages that answer them, across languages
///
/// Data sets are told apart by their files: XQuAD and LAReQA XQuAD-R (a folder of xquad.LANG.json or LANG.json), any SQuAD
/// v1.1 JSON, AfriQA gold passages and Belebele (JSON lines), BEIR folders. Defaults of how the model reads come from the
/// adapter's kiungo.json, where there is one. Intervals are 95 %, from resampled paragraphs; a tie counts as wrong.
#[derive(Args)]
pub struct Eval {
    #[command(flatten)]
    reader: ReaderArgs,
    /// A data set: its folder or file; may be given several times
    #[arg(long, alias = "xquad", value_name = "PATH", required = true)]
    data: Vec<PathBuf>,
    /// Languages to score, e.g. en,es, in the data sets that have them [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    languages: Option<Vec<String>>,
    /// Which questions search which passages: english, own (language), matrix (all by all), pooled (all languages
    /// together) and mteb (own, equal texts merged)
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "english,own")]
    views: Vec<Views>,
    /// Score centred vectors too: less the mean of their language, from all texts and, cross-fitted, from other articles
    #[arg(long)]
    center: bool,
    /// Score what needs no training too: the embedding's output (layer 0), and BM25
    #[arg(long)]
    baselines: bool,
    /// Score linear maps to English too (orthogonal Procrustes, ridge), fitted on these pairs of words, the second English
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,
    /// A data set whose English passages make the search harder, as a setting of its own
    #[arg(long, value_name = "PATH")]
    distractors: Option<PathBuf>,
    /// Folder to keep embeddings in; those that are there already are used, and the model is not run
    #[arg(long, value_name = "DIR")]
    embeddings: Option<PathBuf>,
    /// Write the ranks of every question's answers in every setting (TSV)
    #[arg(long, value_name = "FILE")]
    ranks: Option<PathBuf>,
    /// Write a report with the scores, pictures and settings (HTML)
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the scores as comma-separated text
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Linear maps by reading and kind.
pub type Maps = HashMap<(Reading, Treatment), Map>;

impl Eval {
    pub fn run(self) -> Result<()> {
        let mut collections = inputs::collections(&self.data, self.languages.as_deref())?;
        if let Some(path) = &self.distractors {
            for other in inputs::collections(std::slice::from_ref(path), None)? {
                collections.iter_mut().for_each(|c| _ = c.add_distractors(&other));
            }
        }
        let mut reader = self.reader.clone().resolve()?;
        if self.baselines && !reader.layers.contains(&Layer::Hidden(0)) {
            reader.layers.insert(0, Layer::Hidden(0));
        }
        let encode = reader.encoding();
        let sets = collections.into_iter().map(|c| Questions::new(c, &encode)).collect::<Result<Vec<_>, _>>()?;
        let device = reader.device()?;
        let Some((vectors, maps)) = self.vectors(&reader, &device, &sets)? else { return Ok(()) };

        let mut all = vec![];
        let mut ranks_out = self.ranks.as_deref().map(ranks_file).transpose()?;
        for (set, vectors) in sets.iter().zip(&vectors) {
            let views: Vec<View> = self.views.iter().flat_map(|&family| views(&set.collection, family)).collect();
            let judged = judge(&device, &set.collection, vectors, &views, &self.treatments(), &maps)?;
            all.extend(rows::rows(&set.collection, &judged, &Bootstrap::default())?);
            if let (Some((path, out)), false) = (&mut ranks_out, judged.is_empty()) {
                ranks::write(&set.collection, &judged, out).with_context(|| path.display().to_string())?;
            }
        }
        if let Some((_, out)) = ranks_out {
            out.commit()?;
        }
        let notes = |set: &Questions| set.collection.notes.iter().cloned().chain(set.cuts(reader.max_length)).collect();
        let notes: Vec<String> = sets.iter().flat_map(|set| -> Vec<String> { notes(set) }).collect();
        if let Some(path) = &self.csv {
            output::write_file(path, rows::csv(&all)?)?;
        }
        if let Some(path) = &self.report {
            output::write_file(path, self.page(reader.made_with(&device)?, &sets, &all, &notes)?.to_html())?;
        }
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&all).context("writing JSON")?),
            false => println!("{}", rows::table(&all)),
        }
        notes.iter().for_each(|note| eprintln!("note: {note}"));
        Ok(())
    }

    /// The scores as a page, with what they were made with.
    fn page(
        &self,
        made_with: BTreeMap<String, String>,
        sets: &[Questions],
        rows: &[Row],
        notes: &[String],
    ) -> Result<Report> {
        let best = rows.iter().filter(|r| r.view == Views::English && r.layer.is_some());
        let best = best.max_by(|a, b| a.accuracy_at_1.total_cmp(&b.accuracy_at_1));
        let verdict = best.map_or(String::new(), |r| {
            let layer = r.layer.map(|l| l.to_string()).unwrap_or_default();
            format!(
                "Highest accuracy@1 over {} passages of {}: {:.3} (questions in {}, layer {layer}, {}; chance {:.3}). Chosen on the test questions, it is an oracle.",
                r.paragraphs, r.data, r.accuracy_at_1, r.questions, r.treatment, r.chance
            )
        });
        let mut report = Report::new("kiungo eval", verdict);
        report.warnings = notes.to_vec();
        let text = "Each question is searched for its passage, by cosine; a tie counts as wrong. Intervals are 95 %, from resampled paragraphs.";
        let scores = Section::new("Scores").text(text).table(rows::table(rows).caption("Scores"));
        report.sections.push(rows::figures(rows)?.into_iter().fold(scores, Section::figure));
        let mut table = Table::new(["setting", "value"]);
        table.row(["command", &std::env::args().collect::<Vec<_>>().join(" ")]);
        for (name, value) in made_with {
            table.row([name.replace('_', " "), value]);
        }
        for set in sets {
            table.row([format!("texts of {}", set.collection.name), set.collection.identity()]);
        }
        report.sections.push(Section::new("What was run").table(table));
        Ok(report)
    }

    fn treatments(&self) -> Vec<Treatment> {
        let of = |asked: bool, treatments: &[Treatment]| if asked { treatments.to_vec() } else { vec![] };
        [
            vec![Treatment::Plain],
            of(self.center, &[Treatment::Centred, Treatment::CrossFitted]),
            of(self.pairs.is_some(), &[Treatment::Procrustes, Treatment::Ridge]),
            of(self.baselines, &[Treatment::Bm25]),
        ]
        .concat()
    }

    /// The vectors of every set, made or read, and the maps that were asked for. None for a dry run.
    fn vectors(&self, reader: &Reader, device: &Device, sets: &[Questions]) -> Result<Option<(Vec<Vectors>, Maps)>> {
        let readings = reader.readings();
        let files: Vec<Option<(PathBuf, BTreeMap<String, String>)>> = match &self.embeddings {
            None => sets.iter().map(|_| None).collect(),
            Some(folder) => {
                let made_with = reader.made_with(device)?;
                sets.iter().map(|set| Some(file_of(folder, &made_with, set))).collect()
            }
        };
        let is_kept = |file: &Option<(PathBuf, _)>| file.as_ref().is_some_and(|(path, _)| path.exists());
        let pairs = match &self.pairs {
            Some(path) => Some(inputs::group(&reader.encoding(), pairs::read(path, None)?.pairs)?.0),
            None => None,
        };
        let missing = sets.iter().zip(&files).filter(|(_, file)| !is_kept(file)).flat_map(|(set, _)| set.lists());
        let of_pairs = pairs.iter().flat_map(|group| [&group.sources, &group.targets].map(|side| slices(side)));
        let lists: Vec<Vec<&[u32]>> = missing.chain(of_pairs).collect();
        let opened = match lists.is_empty() {
            true => None,
            false => Some(reader.open(device, &lists)?),
        };
        if let Some(None) = opened {
            return Ok(None);
        }
        let opened = opened.flatten();
        let mut all = vec![];
        for (set, file) in sets.iter().zip(&files) {
            all.push(match (&opened, file) {
                (Some(opened), file) if !is_kept(file) => make(opened, set, &readings, file.as_ref())?,
                (_, Some((path, made_with))) => {
                    eprintln!("note: embeddings of {} are those in {}", set.collection.name, path.display());
                    Vectors::open(path, &readings, made_with)?
                }
                (_, None) => continue,
            });
        }
        let maps = match (&opened, &pairs) {
            (Some(opened), Some(group)) => maps(&opened.model, opened.adapters.as_ref(), group, &readings)?,
            _ => Maps::new(),
        };
        opened.iter().for_each(Opened::say_peak);
        Ok(Some((all, maps)))
    }
}

fn slices(texts: &[Vec<u32>]) -> Vec<&[u32]> {
    texts.iter().map(Vec::as_slice).collect()
}

/// Embeds a set, and keeps its vectors where a file is named.
fn make(
    opened: &Opened,
    set: &Questions,
    readings: &[Reading],
    file: Option<&(PathBuf, BTreeMap<String, String>)>,
) -> Result<Vectors> {
    let bar = TextBar::new(set.lists().iter().flatten().map(|text| text.len()), "embedding");
    let vectors = set.embed(&opened.model, opened.adapters.as_ref(), readings, |n| bar.advance(n))?;
    bar.finish();
    if let Some((path, made_with)) = file {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        vectors.save(path, made_with)?;
    }
    Ok(vectors)
}

/// Where a set's vectors are kept, and what they are made with.
fn file_of(
    folder: &Path,
    made_with: &BTreeMap<String, String>,
    set: &Questions,
) -> (PathBuf, BTreeMap<String, String>) {
    let name = set.collection.name.to_lowercase().replace(|c: char| !c.is_alphanumeric(), "-");
    let mut made_with = made_with.clone();
    made_with.insert("texts".into(), set.collection.identity());
    (folder.join(format!("{name}.safetensors")), made_with)
}

/// Both kinds of map under every reading.
pub fn maps(model: &Model, adapters: Option<&Adapters>, group: &Group, readings: &[Reading]) -> Result<Maps> {
    let embed = |texts: &[Vec<u32>]| embed_all(model, adapters, &slices(texts), None, readings, |_| {});
    let (sources, targets) = (embed(&group.sources)?, embed(&group.targets)?);
    let mut maps = Maps::new();
    for ((reading, source), target) in readings.iter().zip(&sources).zip(&targets) {
        for (treatment, fit) in [(Treatment::Procrustes, Fit::Procrustes), (Treatment::Ridge, Fit::Ridge)] {
            maps.insert((*reading, treatment), Map::fit(fit, source, target)?);
        }
    }
    Ok(maps)
}

fn ranks_file(path: &Path) -> Result<(PathBuf, NewFile), output::OutputError> {
    let mut file = NewFile::create(path)?;
    file.write_all(ranks::HEADER.as_bytes())
        .map_err(|source| output::OutputError::Write { path: path.into(), source })?;
    Ok((path.into(), file))
}
