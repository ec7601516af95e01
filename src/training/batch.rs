//! Groups of pairs as tokens, and the batches that steps take from them.

use super::settings::Settings;
use crate::device::{DType, Device, Staging, Tensor};
use crate::formats::pairs::Pair;
use crate::ops::OpError;
use crate::ops::sequences::{Padded, Sequences};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use std::collections::HashSet;
use std::ops::Range;

/// Pairs and their tokens.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// The texts.
    pub pairs: Vec<Pair>,
    /// Tokens of each source text.
    pub sources: Vec<Vec<u32>>,
    /// Tokens of each target text.
    pub targets: Vec<Vec<u32>>,
}

impl Group {
    /// Pairs in the group.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// True without pairs.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The longest text, tokens.
    pub fn longest(&self) -> usize {
        self.sources.iter().chain(&self.targets).map(Vec::len).max().unwrap_or(0)
    }

    /// Tokens of all texts.
    pub fn tokens(&self) -> usize {
        self.sources.iter().chain(&self.targets).map(Vec::len).sum()
    }
}

/// The order of the pairs in an epoch, cut into batches; the last may be smaller.
pub fn epoch_batches(pairs: usize, epoch: usize, settings: &Settings) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..pairs).collect();
    if settings.shuffle {
        // One generator an epoch, so that a resumed run needs no generator state.
        let seed = settings.seed ^ (epoch as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        order.shuffle(&mut StdRng::seed_from_u64(seed));
    }
    order.chunks(settings.batch).map(<[usize]>::to_vec).collect()
}

/// The most tokens that a batch of this many pairs of a group can have.
pub fn largest_batch(group: &Group, batch: usize) -> usize {
    let mut lengths: Vec<usize> = group.sources.iter().zip(&group.targets).map(|(s, t)| s.len() + t.len()).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths.iter().take(batch).sum()
}

/// Batches of more tokens are computed as they are: their launches take no time beside their products, and padding would.
const MOST_PADDED: usize = 4096;
/// Tokens are padded to a multiple of this, and the longest sequence is taken for one.
const LEAST_STEP: usize = 16;

/// The tokens that a batch of `tokens` is padded to, so that batches of few shapes recur: at most a sixteenth more, or 15.
pub fn padded_tokens(tokens: usize) -> usize {
    if tokens > MOST_PADDED { tokens } else { tokens.next_multiple_of(padding_step(tokens)) }
}

fn padding_step(tokens: usize) -> usize {
    (1 << tokens.max(1).ilog2()).max(LEAST_STEP * LEAST_STEP) / LEAST_STEP
}

/// The most tokens that a pass of a step can have: of a batch, or of a part of one.
pub fn largest_pass(group: &Group, settings: &Settings) -> usize {
    let Some(chunk) = settings.chunk else { return largest_batch(group, settings.batch) };
    let mut lengths: Vec<usize> = group.sources.iter().chain(&group.targets).map(Vec::len).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths.iter().take(2 * chunk.min(settings.batch)).sum()
}

/// One step's input: the sources of its pairs, then their targets, packed.
pub struct Batch {
    /// Where each sequence begins and ends.
    pub sequences: Sequences,
    /// The row of the source table that each token reads: token ids, or rows of the cached prefix.
    pub rows: Tensor,
    /// Number of pairs.
    pub pairs: usize,
    /// Rows that may belong to no sequence: the same for all batches that are padded to so many tokens.
    pub padding: Range<usize>,
    /// Which of the batch's texts (the sources, then the targets) are selected: all, unless they are computed in parts.
    pub texts: Range<usize>,
    /// The place in the batch of the first token of those.
    pub first_token: usize,
    /// Whether batches are padded.
    pads: bool,
    /// Of all texts: their lengths, and the rows of their tokens.
    lengths: Vec<usize>,
    all_rows: Vec<u32>,
    excluded: Tensor,
    some_excluded: bool,
}

impl Batch {
    /// Room for up to `pairs` pairs, of which up to `tokens` tokens are selected at once, with the padding if it `pads`.
    pub fn with_capacity(device: &Device, pairs: usize, tokens: usize, pads: bool) -> Result<Batch, OpError> {
        Ok(Batch {
            padding: 0..0,
            texts: 0..0,
            first_token: 0,
            pads,
            lengths: vec![],
            all_rows: vec![],
            sequences: Sequences::with_capacity(device, 2 * pairs, tokens)?,
            rows: Tensor::zeros(device, DType::U32, &[tokens])?,
            pairs: 0,
            excluded: Tensor::zeros(device, DType::U8, &[pairs, pairs])?,
            some_excluded: false,
        })
    }

    /// Bytes of what [`Batch::set`] stages.
    pub fn staged_bytes(pairs: usize) -> usize {
        pairs * pairs
    }

    /// Bytes of each of the tensors that [`Batch::select`] stages.
    pub fn selected_bytes(texts: usize, tokens: usize) -> impl Iterator<Item = usize> {
        Sequences::staged_bytes(texts, tokens).into_iter().chain([tokens * size_of::<u32>()])
    }

    /// Those, in the order that they are staged in.
    pub(super) fn selected_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.sequences.staged_mut().into_iter().chain([&mut self.rows])
    }

    /// Takes pairs of a group, of which [`Batch::select`] then packs some or all texts. `first_rows` maps a text of the
    /// group (sources, then targets) to its first row in a table of cached states; without it, rows are token ids.
    pub fn set(
        &mut self,
        staging: &mut Staging,
        group: &Group,
        pairs: &[usize],
        first_rows: Option<&[usize]>,
        translations: &Translations,
    ) -> Result<(), OpError> {
        let texts = || {
            pairs
                .iter()
                .map(|&i| (i, &group.sources[i]))
                .chain(pairs.iter().map(|&i| (i + group.len(), &group.targets[i])))
        };
        self.lengths = texts().map(|(_, ids)| ids.len()).collect();
        self.all_rows = match first_rows {
            None => texts().flat_map(|(_, ids)| ids.iter().copied()).collect(),
            Some(first) => {
                texts().flat_map(|(text, ids)| (0..ids.len()).map(move |t| (first[text] + t) as u32)).collect()
            }
        };
        let excluded = translations.excluded(group, pairs);
        self.some_excluded = excluded.is_some();
        if let Some(mask) = excluded {
            self.excluded.set_square(pairs.len())?;
            staging.write(&mask, &mut self.excluded)?;
        }
        self.pairs = pairs.len();
        Ok(())
    }

    /// Packs some of the batch's texts: what the next pass is over.
    pub fn select(&mut self, staging: &mut Staging, texts: Range<usize>) -> Result<(), OpError> {
        let first: usize = self.lengths[..texts.start].iter().sum();
        let lengths = self.lengths[texts.clone()].to_vec();
        let tokens: usize = lengths.iter().sum();
        let mut rows = self.all_rows[first..first + tokens].to_vec();
        let padded = self.pad(&lengths);
        // Padding reads what some sequence reads, so that nothing else can go wrong in it.
        rows.resize(padded.map_or(tokens, |p| p.tokens), rows.first().copied().unwrap_or(0));
        self.sequences.set_padded(staging, &lengths, padded)?;
        self.rows.set_rows(rows.len())?;
        staging.write(&rows, &mut self.rows)?;
        (self.texts, self.first_token) = (texts, first);
        Ok(())
    }

    /// Whether all texts are selected.
    pub fn is_whole(&self) -> bool {
        self.texts.len() == 2 * self.pairs
    }

    fn pad(&mut self, lengths: &[usize]) -> Option<Padded> {
        let real: usize = lengths.iter().sum();
        if !self.pads || real > MOST_PADDED {
            self.padding = real..real;
            return None;
        }
        let tokens = padded_tokens(real);
        self.padding = tokens.saturating_sub(padding_step(real) - 1)..tokens;
        let longest = lengths.iter().copied().max().unwrap_or(0).next_multiple_of(LEAST_STEP);
        Some(Padded { tokens, longest })
    }

    /// Which entries of the similarity matrix are no negatives, `[pairs, pairs]` u8, if any are not.
    pub fn excluded(&self) -> Option<&Tensor> {
        self.some_excluded.then_some(&self.excluded)
    }
}

/// Which texts are listed as translations of each other.
pub struct Translations(HashSet<(String, String)>);

impl Translations {
    /// All pairs of all groups.
    pub fn new<'a>(pairs: impl IntoIterator<Item = &'a Pair>) -> Translations {
        Translations(pairs.into_iter().map(|p| (p.source.clone(), p.target.clone())).collect())
    }

    /// Entry (i, j) is no negative where target j also translates source i, or where either text occurs twice.
    fn excluded(&self, group: &Group, pairs: &[usize]) -> Option<Vec<u8>> {
        let n = pairs.len();
        let mut mask = vec![0u8; n * n];
        for (i, &a) in pairs.iter().enumerate() {
            for (j, &b) in pairs.iter().enumerate().filter(|&(j, _)| j != i) {
                let (a, b) = (&group.pairs[a], &group.pairs[b]);
                let same = a.source == b.source || a.target == b.target;
                if same || self.0.contains(&(a.source.clone(), b.target.clone())) {
                    mask[i * n + j] = 1;
                }
            }
        }
        mask.contains(&1).then_some(mask)
    }
}
