//! The findings as comma-separated text, unrounded.

use super::{ArmRuns, Endpoint, Findings};
use crate::report::csv::lines;
use crate::retrieval::comparison::Difference;
use crate::retrieval::statistics::Estimate;
use csv::Error;

impl Findings {
    /// A line for every arm on every endpoint.
    pub fn gains_csv(&self) -> Result<String, Error> {
        let header = "data view paragraphs vectors passages arm layer base base_low base_high accuracy low high gain gain_low gain_high p detectable seeds";
        lines(
            header,
            self.gains.iter().map(|g| {
                let Endpoint { data, view, paragraphs, vectors, passages } = g.endpoint.clone();
                let mut cells = vec![data, view, paragraphs, vectors, passages, g.arm.to_string(), g.layer.clone()];
                cells.extend([g.base, g.accuracy].iter().flat_map(estimate));
                cells.extend(difference(&g.gain));
                cells.push(g.gain.seeds.to_string());
                cells
            }),
        )
    }

    /// A line for every arm in every language, on the primary endpoint.
    pub fn languages_csv(&self) -> Result<String, Error> {
        let header = "language arm base accuracy gain gain_low gain_high p detectable p_holm";
        lines(
            header,
            self.languages.iter().map(|l| {
                let mut cells = vec![l.language.clone(), l.arm.to_string(), l.base.to_string(), l.accuracy.to_string()];
                cells.extend(difference(&l.gain));
                cells.push(l.holm.to_string());
                cells
            }),
        )
    }
}

/// A line for every training.
pub fn runs_csv(arms: &[ArmRuns]) -> Result<String, Error> {
    let header = "arm layer seed learning_rate parameters steps seconds memory_planned memory_peak loss collapsed control_p1 control_cosine control_shuffled perplexity base_perplexity";
    let optional = |value: Option<f64>| value.map(|v| v.to_string()).unwrap_or_default();
    let runs = arms.iter().flat_map(|arm| arm.runs.iter().map(move |(run, _)| (arm, run)));
    lines(
        header,
        runs.map(|(arm, run)| {
            let words = run.control.get(&arm.target);
            vec![
                arm.arm.to_string(),
                arm.target.clone(),
                run.seed.to_string(),
                optional(run.learning_rate),
                run.parameters.to_string(),
                run.steps.to_string(),
                run.seconds.to_string(),
                run.memory.to_string(),
                run.peak.map(|bytes| bytes.to_string()).unwrap_or_default(),
                optional(run.final_loss.map(f64::from)),
                run.collapsed.to_string(),
                optional(words.map(|w| w.precision_at_1())),
                optional(words.map(|w| w.pair_cosine)),
                optional(words.map(|w| w.shuffled_cosine)),
                optional(run.perplexity),
                optional(arm.base.0.perplexity),
            ]
        }),
    )
}

fn estimate(e: &Estimate) -> [String; 3] {
    [e.value, e.low, e.high].map(|v| v.to_string())
}

fn difference(d: &Difference) -> impl Iterator<Item = String> {
    estimate(&d.estimate).into_iter().chain([d.p.to_string(), d.detectable.to_string()])
}
