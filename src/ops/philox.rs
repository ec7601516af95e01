//! Random bits as a function of a counter and a key, the same on the CPU and on a GPU, in any order: Philox4x32
//! (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

use super::params::DropoutParams;

/// Four random words for a counter, in the authors' ten rounds.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    philox_of(10, counter, key)
}

/// The same in another number of rounds; seven are the fewest that pass all of the authors' tests.
pub fn philox_of(rounds: u32, counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let ([mut a, mut b, mut c, mut d], mut key) = (counter, key);
    for _ in 0..rounds {
        let first = u64::from(MULTIPLIERS[0]) * u64::from(a);
        let second = u64::from(MULTIPLIERS[1]) * u64::from(c);
        let (high, low) = (|x: u64| (x >> 32) as u32, |x: u64| x as u32);
        [a, b, c, d] = [high(second) ^ b ^ key[0], low(second), high(first) ^ d ^ key[1], low(first)];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    [a, b, c, d]
}

/// Which elements of a tensor are dropped in one step.
///
/// Element `i`, counted from `first`, takes word `i % 4` of the counter `(i / 4, stream, step)` under the key `seed`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Share of the elements that are dropped, from 0 up to, but not including, 1.
    pub probability: f32,
    /// The run's seed.
    pub seed: u64,
    /// Tells tensors of one step apart.
    pub stream: u32,
    /// Tells steps apart.
    pub step: u32,
    /// Where the tensor begins in a larger one that it is a part of: element `i` is that one's `first + i`. On a GPU a
    /// multiple of 4.
    pub first: u64,
}

impl Dropout {
    /// Random words below this are dropped: `probability * 2^32`, rounded.
    pub fn threshold(&self) -> u32 {
        (f64::from(self.probability) * 4_294_967_296.0).round() as u32
    }

    /// What a kept element is multiplied with: `1 / (1 - probability)`.
    pub fn scale(&self) -> f32 {
        1.0 / (1.0 - self.probability)
    }

    /// Whether element `index` is kept.
    pub fn keep(&self, index: u64) -> bool {
        let index = self.first + index;
        self.words(index / 4)[(index % 4) as usize] >= self.threshold()
    }

    /// The words of elements `4 * quad` to `4 * quad + 3`.
    fn words(&self, quad: u64) -> [u32; 4] {
        let halves = |x: u64| [x as u32, (x >> 32) as u32];
        let [low, high] = halves(quad);
        philox([low, high, self.stream, self.step], halves(self.seed))
    }

    /// `to[i] = from[i] * scale` where element `first + i` is kept, else 0.
    pub fn apply(&self, first: u64, from: &[f32], to: &mut [f32]) {
        let (threshold, scale, first) = (self.threshold(), self.scale(), self.first + first);
        let mut words = self.words(first / 4);
        for (i, (from, to)) in from.iter().zip(to).enumerate() {
            let index = first + i as u64;
            if index.is_multiple_of(4) {
                words = self.words(index / 4);
            }
            *to = if words[(index % 4) as usize] >= threshold { from * scale } else { 0.0 };
        }
    }

    /// What kernels are told; without dropout everything is kept.
    pub fn params(dropout: Option<Dropout>) -> DropoutParams {
        let Some(dropout) = dropout.filter(|d| d.probability > 0.0) else {
            return DropoutParams { scale: 1.0, ..Default::default() };
        };
        DropoutParams {
            state: 0,
            threshold: dropout.threshold(),
            scale: dropout.scale(),
            seed_low: dropout.seed as u32,
            seed_high: (dropout.seed >> 32) as u32,
            stream: dropout.stream,
            step: dropout.step,
            first: dropout.first,
        }
    }
}
