//! Which layers an adapter's settings mean.

use crate::llama::config::Projection;
use fancy_regex::Regex;
use std::collections::BTreeSet;

/// Names of modules, as PEFT matches them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(untagged)]
pub enum Modules {
    /// Whole names, or their last parts.
    Names(Vec<String>),
    /// `all-linear`, or a regular expression for the whole name.
    Pattern(String),
}

/// `target_modules`, `exclude_modules` and `layers_to_transform`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    pub modules: Modules,
    pub excluded: Option<Modules>,
    pub blocks: Option<Vec<usize>>,
}

/// A module's name as PEFT sees it, e.g. `model.layers.0.self_attn.q_proj`.
pub fn module(block: usize, projection: Projection) -> String {
    format!("model.layers.{block}.{}", projection.path())
}

impl Targets {
    /// The linear layers meant, of a Llama of `layers` blocks. Follows PEFT's `check_target_module_exists`.
    pub fn matching(&self, layers: usize) -> Result<BTreeSet<(usize, Projection)>, String> {
        let wanted = Matcher::new(&self.modules)?;
        let excluded = self.excluded.as_ref().map(Matcher::new).transpose()?;
        let mut matching = BTreeSet::new();
        for block in 0..layers {
            for projection in Projection::ALL {
                let name = module(block, projection);
                let out = excluded.as_ref().map_or(Ok(Match::No), |m| m.test(&name))?;
                let chosen = match wanted.test(&name)? {
                    Match::No => false,
                    Match::Whole => true,
                    // Only a name matched by its end is filtered by block.
                    Match::End => self.blocks.as_ref().is_none_or(|blocks| blocks.contains(&block)),
                };
                if chosen && out == Match::No {
                    matching.insert((block, projection));
                }
            }
        }
        Ok(matching)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Match {
    No,
    Whole,
    End,
}

enum Matcher<'a> {
    Names(&'a [String]),
    AllLinear,
    Regex(Box<Regex>),
}

impl Matcher<'_> {
    fn new(modules: &Modules) -> Result<Matcher<'_>, String> {
        match modules {
            Modules::Names(names) => Ok(Matcher::Names(names)),
            Modules::Pattern(pattern) if pattern == "all-linear" => Ok(Matcher::AllLinear),
            Modules::Pattern(pattern) => match Regex::new(&format!(r"\A(?:{pattern})\z")) {
                Ok(regex) => Ok(Matcher::Regex(Box::new(regex))),
                Err(e) => Err(format!("{pattern:?} is no regular expression: {e}")),
            },
        }
    }

    fn test(&self, name: &str) -> Result<Match, String> {
        let end = |wanted: &String| name.strip_suffix(wanted.as_str()).is_some_and(|rest| rest.ends_with('.'));
        Ok(match self {
            Matcher::AllLinear => Match::End,
            Matcher::Names(names) if names.iter().any(|wanted| wanted == name) => Match::Whole,
            Matcher::Names(names) if names.iter().any(end) => Match::End,
            Matcher::Names(_) => Match::No,
            Matcher::Regex(regex) => match regex.is_match(name) {
                Ok(true) => Match::Whole,
                Ok(false) => Match::No,
                Err(e) => return Err(format!("the regular expression fails on {name}: {e}")),
            },
        })
    }
}
