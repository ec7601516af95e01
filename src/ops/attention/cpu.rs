//! The reference: tiles of queries with all their keys.

use super::Heads;
use crate::device::cpu::{Store, Threads, View, ViewMut, matmul, vectorised};
use crate::ops::Float;
use crate::ops::exp::exp;
use crate::ops::sequences::Sequences;
use rayon::prelude::*;
use std::ops::Range;

/// Queries whose scores are held at once.
const TILE: usize = 64;

/// See [`super::forward`].
pub fn forward<T: Float>(q: &[T], k: &[T], v: &[T], sequences: &Sequences, heads: Heads, o: &mut [T], lse: &mut [f32]) {
    let inputs = Inputs { q: &T::widen(q), k: &T::widen(k), v: &T::widen(v), heads };
    let (mut o, mut lse) = (o, lse);
    let tiles: Vec<_> = sequences
        .ranges()
        .flat_map(Tile::of)
        .map(|tile| {
            let rows = tile.queries.len();
            let o = take(&mut o, rows * heads.query * heads.dim);
            (tile, o, take(&mut lse, rows * heads.query))
        })
        .collect();
    tiles.into_par_iter().for_each_init(<[Vec<f32>; 2]>::default, |[scores, mean], (tile, o, lse)| {
        let scores = buffer(scores, tile.queries.len() * tile.keys.len());
        let mean = buffer(mean, tile.queries.len() * heads.dim);
        for h in 0..heads.query {
            inputs.forward_tile(&tile, h, scores, mean, o, lse);
        }
    });
}

/// `delta = sum over the features of a head of d_o * o`.
pub fn delta<T: Float>(d_o: &[T], o: &[T], dim: usize, delta: &mut [f32]) {
    d_o.par_chunks(dim).zip(o.par_chunks(dim)).zip(delta).for_each(|((d_o, o), delta)| {
        *delta = d_o.iter().zip(o).map(|(d, o)| d.to_f32() * o.to_f32()).sum();
    });
}

/// See [`super::backward`]; `delta` is that of [`delta`].
#[expect(clippy::too_many_arguments, reason = "the equations have that many names")]
pub fn backward<T: Float>(
    d_o: &[T],
    q: &[T],
    k: &[T],
    v: &[T],
    lse: &[f32],
    delta: &[f32],
    sequences: &Sequences,
    heads: Heads,
    dq: &mut [T],
    dk: &mut [T],
    dv: &mut [T],
) {
    let inputs = Inputs { q: &T::widen(q), k: &T::widen(k), v: &T::widen(v), heads };
    let upstream = Upstream { d_o: &T::widen(d_o), lse, delta };
    // Key heads outermost, so that each task owns its part of every gradient.
    let mut parts = [q.len(), k.len(), v.len()].map(|n| vec![0.0; n]);
    let [mut dq_rest, mut dk_rest, mut dv_rest] = parts.each_mut().map(|p| &mut p[..]);
    let tasks: Vec<_> = (0..heads.key_value)
        .flat_map(|kv| sequences.ranges().map(move |sequence| (kv, sequence)))
        .map(|(kv, sequence)| {
            let n = sequence.len() * heads.dim;
            let dq = take(&mut dq_rest, n * heads.group());
            (kv, sequence, Gradients { dq, dk: take(&mut dk_rest, n), dv: take(&mut dv_rest, n) })
        })
        .collect();
    tasks.into_par_iter().for_each_init(<[Vec<f32>; 2]>::default, |[p, ds], (kv, sequence, mut gradients)| {
        for tile in Tile::of(sequence) {
            let n = tile.queries.len() * tile.keys.len();
            for g in 0..heads.group() {
                inputs.backward_tile(&upstream, &tile, [kv, g], buffer(p, n), buffer(ds, n), &mut gradients);
            }
        }
    });
    interleave(&parts[0], heads.key_value, heads.group() * heads.dim, dq);
    interleave(&parts[1], heads.key_value, heads.dim, dk);
    interleave(&parts[2], heads.key_value, heads.dim, dv);
}

/// Queries of one sequence, and the keys that the last of them sees, as tokens of the batch.
struct Tile {
    queries: Range<usize>,
    keys: Range<usize>,
}

impl Tile {
    fn of(sequence: Range<usize>) -> impl Iterator<Item = Tile> {
        sequence.clone().step_by(TILE).map(move |first| {
            let end = (first + TILE).min(sequence.end);
            Tile { queries: first..end, keys: sequence.start..end }
        })
    }

    /// The first query's place in its sequence.
    fn first(&self) -> usize {
        self.queries.start - self.keys.start
    }

    /// For each query its token, its row of the tile's scores, and the number of keys that it sees.
    fn rows<'a>(&self, scores: &'a mut [f32]) -> impl Iterator<Item = (usize, &'a mut [f32], usize)> {
        let rows = scores.chunks_exact_mut(self.keys.len());
        self.queries.clone().zip(rows).zip(self.first() + 1..).map(|((token, row), visible)| (token, row, visible))
    }
}

struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    heads: Heads,
}

/// What the backward pass knows of the result.
struct Upstream<'a> {
    d_o: &'a [f32],
    lse: &'a [f32],
    delta: &'a [f32],
}

/// Gradients of one sequence and one key head: `dq` `[length, group * dim]`, `dk` and `dv` `[length, dim]`.
struct Gradients<'a> {
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

impl<'a> Inputs<'a> {
    fn scale(&self) -> f32 {
        1.0 / (self.heads.dim as f32).sqrt()
    }

    /// A query head's columns of `q`, `d_o` or `o`.
    fn queries(&self, x: &'a [f32], tile: &Tile, h: usize) -> View<'a> {
        columns(x, &tile.queries, self.heads.query, self.heads.dim, h)
    }

    /// A key head's columns of `k` or `v`.
    fn keys(&self, x: &'a [f32], tile: &Tile, kv: usize) -> View<'a> {
        columns(x, &tile.keys, self.heads.key_value, self.heads.dim, kv)
    }

    /// Query head `h` of a tile. `scores` and `mean` are scratch; `o` and `lse` are the tile's rows.
    fn forward_tile<T: Float>(
        &self,
        tile: &Tile,
        h: usize,
        scores: &mut [f32],
        mean: &mut [f32],
        o: &mut [T],
        lse: &mut [f32],
    ) {
        let Heads { query, dim, .. } = self.heads;
        let (rows, keys, kv) = (tile.queries.len(), tile.keys.len(), h / self.heads.group());
        let (q, k, v) = (self.queries(self.q, tile, h), self.keys(self.k, tile, kv), self.keys(self.v, tile, kv));
        multiply(self.scale(), q, k.transposed(), Store::Replace, ViewMut::new(scores, rows, keys));
        let mut inverse_sums = [0.0; TILE];
        for ((r, inverse_sum), (_, row, visible)) in (0..).zip(&mut inverse_sums).zip(tile.rows(scores)) {
            let (max, sum) = vectorised(
                #[inline(always)]
                || exponentials(row, visible),
            );
            *inverse_sum = 1.0 / sum;
            lse[r * query + h] = max + sum.ln();
        }
        multiply(1.0, View::new(scores, rows, keys), v, Store::Replace, ViewMut::new(mean, rows, dim));
        let rows = o.chunks_exact_mut(query * dim).zip(mean.chunks_exact(dim)).zip(inverse_sums);
        for ((o, mean), inverse_sum) in rows {
            for (o, x) in o[h * dim..][..dim].iter_mut().zip(mean) {
                *o = T::from_f32(x * inverse_sum);
            }
        }
    }

    /// The `g`-th query head of key head `kv`, of one tile. `p` and `ds` are scratch.
    fn backward_tile(
        &self,
        upstream: &Upstream<'a>,
        tile: &Tile,
        [kv, g]: [usize; 2],
        p: &mut [f32],
        ds: &mut [f32],
        to: &mut Gradients,
    ) {
        let Heads { query, dim, .. } = self.heads;
        let (rows, keys, group, scale) = (tile.queries.len(), tile.keys.len(), self.heads.group(), self.scale());
        let h = kv * group + g;
        let (q, k, v) = (self.queries(self.q, tile, h), self.keys(self.k, tile, kv), self.keys(self.v, tile, kv));
        let d_o = self.queries(upstream.d_o, tile, h);

        multiply(scale, q, k.transposed(), Store::Replace, ViewMut::new(p, rows, keys));
        for (token, row, visible) in tile.rows(p) {
            let lse = upstream.lse[token * query + h];
            row[visible..].fill(0.0);
            vectorised(|| row[..visible].iter_mut().for_each(|s| *s = exp(*s - lse)));
        }
        multiply(1.0, d_o, v.transposed(), Store::Replace, ViewMut::new(ds, rows, keys));
        for ((token, row, _), p) in tile.rows(ds).zip(p.chunks_exact(keys)) {
            let delta = upstream.delta[token * query + h];
            vectorised(|| row.iter_mut().zip(p).for_each(|(ds, p)| *ds = p * (*ds - delta)));
        }
        let (p, ds) = (View::new(p, rows, keys), View::new(ds, rows, keys));
        multiply(1.0, p.transposed(), d_o, Store::Add, ViewMut::new(to.dv, keys, dim));
        multiply(scale, ds.transposed(), q, Store::Add, ViewMut::new(to.dk, keys, dim));
        let dq = &mut to.dq[(tile.first() * group + g) * dim..];
        multiply(scale, ds, k, Store::Replace, ViewMut::strided(dq, rows, dim, group * dim));
    }
}

/// One head's columns of some tokens.
fn columns<'a>(x: &'a [f32], tokens: &Range<usize>, heads: usize, dim: usize, head: usize) -> View<'a> {
    View::strided(&x[(tokens.start * heads + head) * dim..], tokens.len(), dim, heads * dim)
}

/// The tasks are parallel, the products within them are not.
fn multiply(scale: f32, a: View, b: View, store: Store, c: ViewMut) {
    matmul(scale, a, b, store, c, Threads::One);
}

/// Replaces the visible scores by `exp(score - max)` and the others by 0; returns the maximum and the sum.
#[inline(always)]
fn exponentials(row: &mut [f32], visible: usize) -> (f32, f32) {
    let (seen, hidden) = row.split_at_mut(visible);
    hidden.fill(0.0);
    let max = reduce(seen, f32::NEG_INFINITY, f32::max);
    seen.iter_mut().for_each(|s| *s = exp(*s - max));
    (max, reduce(seen, 0.0, |a, b| a + b))
}

/// Reduces in 16 lanes, which the compiler vectorises, in an order that depends on the length alone.
#[inline(always)]
fn reduce(x: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<16>();
    let mut lanes = [start; 16];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| *lane = f(*lane, x));
    }
    lanes.iter().chain(rest).fold(start, |a, &b| f(a, b))
}

/// `[parts, tokens, width]` to `[tokens, parts * width]`.
fn interleave<T: Float>(from: &[f32], parts: usize, width: usize, to: &mut [T]) {
    let part = from.len() / parts;
    to.par_chunks_mut(parts * width).enumerate().for_each(|(token, row)| {
        for (p, to) in row.chunks_exact_mut(width).enumerate() {
            for (to, x) in to.iter_mut().zip(&from[p * part + token * width..]) {
                *to = T::from_f32(*x);
            }
        }
    });
}

/// Cuts the first `n` elements off.
fn take<'a, T>(rest: &mut &'a mut [T], n: usize) -> &'a mut [T] {
    let (first, others) = std::mem::take(rest).split_at_mut(n);
    *rest = others;
    first
}

/// The first `n` elements of a buffer that grows as needed.
fn buffer(scratch: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if scratch.len() < n {
        scratch.resize(n, 0.0);
    }
    &mut scratch[..n]
}
