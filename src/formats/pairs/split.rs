use super::Pair;
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// Pairs in groups that share no word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// One group for each fraction, each in the order of the input.
    pub groups: Vec<Vec<Pair>>,
    /// Pairs left out because their two words belong to two groups.
    pub straddling: usize,
}

/// Fractions that pairs cannot be split by.
#[derive(Debug, thiserror::Error)]
#[error("fractions {0:?} do not split anything; expected positive numbers that add up to 1")]
pub struct SplitError(Vec<f64>);

/// Splits pairs by word: no source and no target of one group is in another, so that what is read at the end was
/// never learnt from in any pairing.
///
/// Pairs are visited in an order that the seed decides. A pair of two new words goes to the group that lacks most
/// of its fraction; one with a known word follows that word; one whose words are known to two groups is left out and
/// counted. The order comes from a hash of seed and pair, so it depends neither on the order of the rows nor on the
/// version of a random number generator.
pub fn split(pairs: &[Pair], seed: u64, fractions: &[f64]) -> Result<Split, SplitError> {
    let sum: f64 = fractions.iter().sum();
    if (sum - 1.0).abs() > 1e-6 || !fractions.iter().all(|&f| f > 0.0) {
        return Err(SplitError(fractions.into()));
    }
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    order.sort_by_cached_key(|&i| (ticket(seed, &pairs[i]), i));

    let mut sizes = vec![0usize; fractions.len()];
    let mut of_pair = vec![None; pairs.len()];
    let (mut of_source, mut of_target) = (HashMap::new(), HashMap::new());
    for i in order {
        let Pair { source, target } = &pairs[i];
        let group = match (of_source.get(source), of_target.get(target)) {
            (None, None) => emptiest(&sizes, fractions),
            (Some(&group), None) | (None, Some(&group)) => group,
            (Some(&a), Some(&b)) if a == b => a,
            _ => continue,
        };
        of_source.insert(source, group);
        of_target.insert(target, group);
        sizes[group] += 1;
        of_pair[i] = Some(group);
    }
    let mut groups = vec![Vec::new(); fractions.len()];
    for (pair, group) in pairs.iter().zip(&of_pair) {
        if let Some(group) = group {
            groups[*group].push(pair.clone());
        }
    }
    Ok(Split { groups, straddling: of_pair.iter().filter(|group| group.is_none()).count() })
}

/// The group that is filled least for its fraction; the first of several.
fn emptiest(sizes: &[usize], fractions: &[f64]) -> usize {
    let filled = |group: usize| (sizes[group] + 1) as f64 / fractions[group];
    (0..sizes.len()).min_by(|&a, &b| filled(a).total_cmp(&filled(b))).unwrap_or(0)
}

fn ticket(seed: u64, pair: &Pair) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    // The length keeps ("ab", "c") and ("a", "bc") apart.
    hash.update((pair.source.len() as u64).to_le_bytes());
    hash.update(&pair.source);
    hash.update(&pair.target);
    hash.finalize().into()
}
