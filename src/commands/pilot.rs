//! `kiungo pilot`: where in a model words of two languages lie together, before any training.

use super::common::{self, Compute, DeviceChoice};
use super::importance;
use super::inputs;
use super::model::Source;
use super::train::data::{Data, Sources};
use crate::formats::output;
use crate::formats::tokenizer::{Bos, Encoding};
use crate::formats::weights::Options;
use crate::llama::config::Config;
use crate::llama::model::Base;
use crate::llama::{Layer, Parts};
use crate::ops::pooling::Pooling;
use crate::report::csv::lines;
use crate::report::plot::LineChart;
use crate::report::{Report, Section, Table};
use crate::retrieval::pilot::{self, States, states};
use crate::retrieval::scores::Metric;
use crate::retrieval::words::Alignment;
use crate::training::evaluate::Probe;
use crate::training::settings::{Method, Preset, Settings};
use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Show, layer by layer, how the pairs' words lie, with shuffled pairs beside them, and which blocks change most
///
/// Cosines and word retrieval are of the pairs to learn from, the layer that is recommended is chosen on the development
/// pairs. Blocks' importance is 1 - CKA of the last token's state before and behind them (arXiv 2602.05988).
#[derive(Args)]
pub struct Pilot {
    /// Folder of a Llama in Hugging Face's layout, or its name on the hub (org/name, org/name@revision)
    #[arg(long, value_name = "DIR|NAME")]
    model: Source,
    /// Pairs: .tsv, .csv or .jsonl, source then target
    #[arg(long, value_name = "FILE")]
    pairs: PathBuf,
    /// Pairs to choose the layer by [default: a tenth of the pairs]
    #[arg(long, value_name = "FILE")]
    dev: Option<PathBuf>,
    /// Texts for the blocks' importance, one a line; the first 512 are read [default: the pairs' words]
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Blocks to name as the most important [default: half of them]
    #[arg(long, value_name = "N")]
    top: Option<usize>,
    /// How the weights are held: f32, bf16, nf4 or nf4-double
    #[arg(long, value_name = "NAME", default_value_t = Base::Bf16)]
    base: Base,
    /// auto, cpu or cuda
    #[arg(long, value_name = "NAME", default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Precision of activations: f32 or bf16 [f32 on the CPU, bf16 on a GPU]
    #[arg(long, value_name = "NAME")]
    compute: Option<Compute>,
    /// Write the report as HTML
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the figures of every layer as comma-separated text
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// What one layer is like.
struct Row {
    layer: Layer,
    /// The pairs with the sink in the mean, and without.
    with_sink: Alignment,
    without: Alignment,
    dev: Alignment,
    states: States,
}

impl Pilot {
    pub fn run(self) -> Result<()> {
        let files = self.model.open()?;
        let config = &files.config;
        let tokenizer = files.tokenizer(None)?;
        let encode = Encoding { tokenizer: &tokenizer, bos: Bos::Add, max_length: config.max_positions };
        // A control group is neither needed nor read: with --dev alone, the rest are the pairs.
        let sources = Sources::named(&self.model, &self.pairs, self.dev.as_deref(), None);
        let settings = Settings { batch: 2, ..Settings::preset(Preset::Clean, Method::Lora, config) };
        let data = Data::read(&sources, &encode, &settings)?;
        let texts = self.texts(&encode, &data)?;
        let longest = texts.iter().map(Vec::len).chain([data.longest()]).max().unwrap_or(1);

        let device = common::open_device(self.device)?;
        let compute = Compute::or_default(self.compute, &device);
        let parts = Parts { blocks: config.layers, final_norm: true, head: false };
        let options = Options { parts, base: self.base, compute, device: &device, positions: longest };
        let checkpoint = files.checkpoint(parts)?;
        let identity = files.identity(checkpoint.as_ref())?;
        let model = files.load(checkpoint.as_ref(), options, |_| {})?;
        let layers: Vec<Layer> = (0..=config.layers).map(Layer::Hidden).chain([Layer::Final]).collect();
        let all: Vec<_> = data.groups.iter().flat_map(|(_, g)| g.pairs.iter().cloned()).collect();
        let measure = |group: usize, pooling| -> Result<Vec<Alignment>> {
            Ok(Probe::new(&data.groups[group].1, &all, pooling)?.measure(&model, None, &layers)?)
        };
        let (with_sink, without) = (measure(0, Pooling::Mean)?, measure(0, Pooling::MeanNoSink)?);
        let dev = measure(1, Pooling::MeanNoSink)?;
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let states = states(&model, &texts, &layers)?;
        let zipped = layers.iter().zip(with_sink).zip(without).zip(dev).zip(states);
        let rows: Vec<Row> = zipped
            .map(|((((&layer, with_sink), without), dev), states)| Row { layer, with_sink, without, dev, states })
            .collect();
        let mut run = vec![
            ("command".to_string(), std::env::args().collect::<Vec<_>>().join(" ")),
            ("model".into(), self.model.to_string()),
            ("base".into(), self.base.to_string()),
            ("device".into(), common::device_in_words(&device)),
            ("model weights".into(), identity.weights_in_short()),
            ("model settings".into(), identity.config),
        ];
        run.extend(sources.checksums()?.into_iter().map(|(path, sum)| (format!("checksum: {path}"), sum)));
        self.tell(&rows, config, &run)
    }

    fn texts(&self, encode: &Encoding, data: &Data) -> Result<Vec<Vec<u32>>> {
        let Some(path) = &self.texts else {
            return Ok(importance::texts(&data.groups[0].1).into_iter().map(<[u32]>::to_vec).collect());
        };
        let texts = inputs::lines(path, encode, importance::TEXTS)?;
        ensure!(texts.len() > 1, "{}: at least two lines are needed", path.display());
        Ok(texts)
    }

    /// `run`: what was run, name by name.
    fn tell(&self, rows: &[Row], config: &Config, run: &[(String, String)]) -> Result<()> {
        // `final` is the last block's output here; what it is without the norm is not compared.
        let (numbered, last) = rows.split_at(config.layers);
        let behind: Vec<States> = numbered.iter().chain(&last[1..]).map(|row| row.states.clone()).collect();
        let importance = pilot::importance(&behind);
        let top = pilot::most_important(&importance, self.top.unwrap_or(config.layers / 2).min(config.layers));
        let best = recommended(rows);
        let mut report = report(rows, best, &importance, &top)?;
        let mut table = Table::new(["setting", "value"]);
        run.iter().for_each(|(name, value)| _ = table.row([name, value]));
        report.sections.push(Section::new("What was run").table(table));
        if let Some(path) = &self.report {
            output::write_file(path, report.to_html())?;
        }
        if let Some(path) = &self.csv {
            output::write_file(path, csv(rows, &importance)?)?;
        }
        if self.json {
            let value = json!({
                "recommended": best.layer, "blocks": top, "importance": importance,
                "layers": rows.iter().map(as_json).collect::<Vec<_>>(),
            });
            println!("{}", serde_json::to_string_pretty(&value)?);
            return Ok(());
        }
        print!("{}", report.to_text());
        Ok(())
    }
}

/// Mean reciprocal rank of a word's partner, from source to target and back.
fn reciprocal_ranks(a: &Alignment) -> [f64; 2] {
    [&a.to_target, &a.to_source].map(|way| way.mean(Metric::ReciprocalRank(usize::MAX)))
}

/// Both as one number.
fn reciprocal_rank(a: &Alignment) -> f64 {
    reciprocal_ranks(a).iter().sum::<f64>() / 2.0
}

/// Share of words whose partner is nearest, in both directions.
fn precisions(a: &Alignment) -> [f64; 2] {
    [&a.to_target, &a.to_source].map(|way| way.mean(Metric::ACCURACY))
}

/// The layer at which the development pairs find each other best. The embedding's output, behind no block, has nothing that
/// adapters could change.
fn recommended(rows: &[Row]) -> &Row {
    let score = |row: &&Row| reciprocal_rank(&row.dev);
    let behind_blocks = rows.iter().filter(|row| row.layer != Layer::Hidden(0));
    behind_blocks.reduce(|best, row| if score(&row) > score(&best) { row } else { best }).unwrap_or(&rows[0])
}

fn as_json(row: &Row) -> serde_json::Value {
    let words = |a: &Alignment| {
        json!({
            "pair_cosine": a.pair_cosine, "shuffled_cosine": a.shuffled_cosine, "gap": a.pair_cosine - a.shuffled_cosine,
            "precision_at_1": precisions(a), "mrr_both_ways": reciprocal_ranks(a), "mrr": reciprocal_rank(a),
        })
    };
    json!({
        "layer": row.layer, "with_sink": words(&row.with_sink), "without_sink": words(&row.without), "dev": words(&row.dev),
        "sink_norm": row.states.sink_norm, "other_norm": row.states.other_norm,
    })
}

/// Both means of every layer; importance is of the block that ends there.
fn csv(rows: &[Row], importance: &[f64]) -> Result<String, csv::Error> {
    let header = "layer sink pair_cosine shuffled_cosine gap p1_to_target p1_to_source mrr_to_target mrr_to_source dev_mrr sink_norm other_norm block_importance";
    let row = |(row, sink): (&Row, &str)| {
        let a = if sink == "with" { &row.with_sink } else { &row.without };
        let of_block = match row.layer {
            Layer::Hidden(n) => n.checked_sub(1).and_then(|block| importance.get(block)),
            Layer::Final => None,
        };
        let ([p, q], [m, n]) = (precisions(a), reciprocal_ranks(a));
        let cosines = [a.pair_cosine, a.shuffled_cosine, a.pair_cosine - a.shuffled_cosine];
        let found = [p, q, m, n, reciprocal_rank(&row.dev), row.states.sink_norm, row.states.other_norm];
        let numbers = cosines.iter().chain(&found).map(f64::to_string);
        let head = [row.layer.to_string(), sink.to_string()].into_iter();
        head.chain(numbers).chain([of_block.map_or(String::new(), f64::to_string)]).collect()
    };
    lines(header, rows.iter().flat_map(|row| [(row, "without"), (row, "with")]).map(row))
}

/// The recommendation with its reasons: how far the next layer is, what chance gives, and what the paper's mean shows.
fn verdict(rows: &[Row], best: &Row) -> String {
    let mut verdict = format!(
        "Recommended target: {}, where the development pairs find each other best (MRR {:.3}; a pair's cosine {:.3}, of shuffled pairs {:.3}).",
        best.layer,
        reciprocal_rank(&best.dev),
        best.dev.pair_cosine,
        best.dev.shuffled_cosine
    );
    let others = rows.iter().filter(|row| row.layer != best.layer && row.layer != Layer::Hidden(0));
    if let Some(next) = others.max_by(|a, b| reciprocal_rank(&a.dev).total_cmp(&reciprocal_rank(&b.dev))) {
        let chance = best.dev.to_target.chance(Metric::ReciprocalRank(usize::MAX));
        let words = best.dev.to_target.per_query(Metric::ACCURACY).len();
        let next_rank = reciprocal_rank(&next.dev);
        verdict += &format!(" Next is {} with {next_rank:.3}; chance gives {chance:.3}, of {words} words.", next.layer);
    }
    if let Some(row) = rows.iter().find(|row| row.layer == Layer::Hidden(2)) {
        verdict += &format!(
            " With the first token in the mean, pairs at layer 2 have a cosine of {:.5}, and shuffled pairs of {:.5}: that token's state is the same in every text, and {:.1} times as long as the others. arXiv 2506.15415 takes this mean, and its 0.99998 at layer 2 has no shuffled pairs beside it.",
            row.with_sink.pair_cosine,
            row.with_sink.shuffled_cosine,
            row.states.sink_norm / row.states.other_norm.max(f64::MIN_POSITIVE)
        );
    }
    verdict
}

/// Cosines and retrieval at every layer, of one way to take the mean.
fn layers_table(rows: &[Row], alignment: fn(&Row) -> &Alignment) -> Table {
    let mut table = Table::new([
        "layer",
        "cosine",
        "shuffled",
        "gap",
        "P@1",
        "and back",
        "MRR",
        "and back",
        "dev MRR",
        "sink's norm",
        "others'",
    ]);
    for row in rows {
        let a = alignment(row);
        let cosines = [a.pair_cosine, a.shuffled_cosine, a.pair_cosine - a.shuffled_cosine].map(|x| format!("{x:.5}"));
        let ([p, q], [m, n]) = (precisions(a), reciprocal_ranks(a));
        let found = [p, q, m, n, reciprocal_rank(&row.dev)].map(|x| format!("{x:.3}"));
        let norms = [row.states.sink_norm, row.states.other_norm].map(|x| format!("{x:.1}"));
        table.row(std::iter::once(row.layer.to_string()).chain(cosines).chain(found).chain(norms));
    }
    table
}

fn report(rows: &[Row], best: &Row, importance: &[f64], top: &[usize]) -> Result<Report> {
    let blocks: Vec<String> = top.iter().map(usize::to_string).collect();
    let mut blocks_table = Table::new(["block", "1 - CKA", "among the first"]);
    for (block, value) in importance.iter().enumerate() {
        let chosen = if top.contains(&block) { "yes" } else { "" };
        blocks_table.row([block.to_string(), format!("{value:.4}"), chosen.into()]);
    }
    let points = |of: fn(&Row) -> f64| {
        rows.iter().filter_map(move |row| match row.layer {
            Layer::Hidden(n) => Some((n as f64, of(row))),
            Layer::Final => None,
        })
    };
    let cosines = LineChart::new("Cosine by layer, without the first token", "blocks run", "cosine")
        .series("pairs", points(|row| row.without.pair_cosine))
        .series("shuffled pairs", points(|row| row.without.shuffled_cosine));
    let retrieval = LineChart::new("Word retrieval by layer", "blocks run", "MRR")
        .series("without the first token", points(|row| reciprocal_rank(&row.without)))
        .series("with it", points(|row| reciprocal_rank(&row.with_sink)))
        .series("development pairs", points(|row| reciprocal_rank(&row.dev)));
    let mut report = Report::new("kiungo pilot", verdict(rows, best));
    report.sections.push(
        Section::new("Layers, without the first token")
            .text("A layer is a number of blocks. Retrieval is among the group's distinct words; a tie counts as wrong. Cosines alone say nothing: those of shuffled pairs rise with them.")
            .table(layers_table(rows, |row| &row.without))
            .figure(cosines.draw()?)
            .figure(retrieval.include_zero().draw()?),
    );
    report.sections.push(
        Section::new("Layers, with the first token in the mean")
            .text("The same of means over all tokens, the first one (the attention sink) too. Its norm beside that of the others says how much of a mean is the sink alone; development pairs are read without it.")
            .table(layers_table(rows, |row| &row.with_sink)),
    );
    report.sections.push(
        Section::new("Blocks")
            .text(format!(
                "What changes most, by the last token's states; for adapters there: --blocks {}, or --blocks cka:{}.",
                blocks.join(","),
                blocks.len()
            ))
            .table(blocks_table),
    );
    Ok(report)
}
