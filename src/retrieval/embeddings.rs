//! Unit vectors on the host.

use std::collections::HashMap;

/// Rows that cannot serve as embeddings.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddingError {
    /// The number of values is not a multiple of the width.
    #[error("embeddings: {values} values do not make rows of {width}")]
    Length {
        /// Values found.
        values: usize,
        /// Values a row.
        width: usize,
    },
    /// A row holds NaN or infinity.
    #[error("embedding {row} holds {value} at column {column}: the model's output is not finite")]
    NotFinite {
        /// 0-based row.
        row: usize,
        /// 0-based column.
        column: usize,
        /// The value.
        value: f32,
    },
    /// A row is longer or shorter than 1.
    #[error("embedding {row} has norm {norm}, expected 1: normalise it first")]
    NotUnit {
        /// 0-based row.
        row: usize,
        /// Its Euclidean norm.
        norm: f64,
    },
}

/// Rows of unit length, `[len, width]`, f32, so that a dot product is a cosine.
///
/// A row may also be all zeros, where a vector has no direction; it is then no more like one row than like another.
#[derive(Clone, Debug)]
pub struct Embeddings {
    values: Vec<f32>,
    width: usize,
}

impl Embeddings {
    /// How far a norm may be from 1: well above f32 rounding, well below what changes a ranking.
    const TOLERANCE: f64 = 1e-3;

    /// Takes unit rows over. An error where the values do not make rows, are not finite, or are not of unit length.
    pub fn new(values: Vec<f32>, width: usize) -> Result<Embeddings, EmbeddingError> {
        if width == 0 || !values.len().is_multiple_of(width) {
            return Err(EmbeddingError::Length { values: values.len(), width });
        }
        for (row, v) in values.chunks_exact(width).enumerate() {
            if let Some(column) = v.iter().position(|x| !x.is_finite()) {
                return Err(EmbeddingError::NotFinite { row, column, value: v[column] });
            }
            let norm = dot(v, v).sqrt();
            if norm != 0.0 && (norm - 1.0).abs() > Self::TOLERANCE {
                return Err(EmbeddingError::NotUnit { row, norm });
            }
        }
        Ok(Embeddings { values, width })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.width
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Values a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// All values, row after row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// All values, row after row.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// One row. Panics beyond the last.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.width..(i + 1) * self.width]
    }

    /// The rows, in order.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.width)
    }

    /// The rows named, in the order named. Panics beyond the last.
    pub fn select(&self, rows: &[usize]) -> Embeddings {
        let values = rows.iter().flat_map(|&i| self.row(i)).copied().collect();
        Embeddings { values, width: self.width }
    }

    /// The rows named, in the order named, and rows of zeros for those that are not there. Panics beyond the last.
    pub(super) fn select_or_zero(&self, rows: &[Option<usize>]) -> Embeddings {
        let zeros = vec![0.0; self.width];
        let values = rows.iter().flat_map(|row| row.map_or(zeros.as_slice(), |i| self.row(i))).copied().collect();
        Embeddings { values, width: self.width }
    }

    /// The sum of all rows, `[width]`.
    pub(super) fn sum(&self) -> Vec<f64> {
        let mut sum = vec![0.0; self.width];
        for row in self.rows() {
            sum.iter_mut().zip(row).for_each(|(s, &v)| *s += f64::from(v));
        }
        sum
    }

    /// Each row less the mean of its language, brought back to unit length: takes out what a language's texts share, a
    /// baseline that needs no training. To be compared with what is centred too. Row `i` is of language `language[i]`.
    pub fn centred(&self, language: &[usize], means: &Means) -> Embeddings {
        let mut values = Vec::with_capacity(self.values.len());
        for (row, language) in self.rows().zip(language) {
            match means.0.get(language) {
                Some((sum, n)) if *n > 0.0 => {
                    values.extend(row.iter().zip(sum).map(|(&v, sum)| (f64::from(v) - sum / n) as f32));
                }
                _ => values.extend_from_slice(row),
            }
        }
        Embeddings::normalised(values, self.width)
    }

    /// Rows brought to unit length. Rows that are as good as zero have no direction, and become zeros.
    pub(super) fn normalised(mut values: Vec<f32>, width: usize) -> Embeddings {
        for row in values.chunks_exact_mut(width) {
            let norm = dot(row, row).sqrt();
            // Identical rows less their mean leave rounding errors, which have no direction.
            let scale = if norm > 1e-6 { 1.0 / norm } else { 0.0 };
            row.iter_mut().for_each(|v| *v = (f64::from(*v) * scale) as f32);
        }
        Embeddings { values, width }
    }
}

/// The mean row of each language, as its sum and the number of its rows.
#[derive(Clone, Debug)]
pub struct Means(HashMap<usize, (Vec<f64>, f64)>);

impl Means {
    /// Of the rows that count.
    pub fn of(rows: &Embeddings, language: &[usize], counts: impl Fn(usize) -> bool) -> Means {
        let mut means: HashMap<usize, (Vec<f64>, f64)> = HashMap::new();
        for (i, row) in rows.rows().enumerate().filter(|(i, _)| counts(*i)) {
            let (sum, n) = means.entry(language[i]).or_insert_with(|| (vec![0.0; rows.width], 0.0));
            sum.iter_mut().zip(row).for_each(|(s, &v)| *s += f64::from(v));
            *n += 1.0;
        }
        Means(means)
    }

    /// Of these rows but for those of `others`, which are among them.
    pub fn without(&self, others: &Means) -> Means {
        let mut rest = self.clone();
        for (language, (sum, n)) in &others.0 {
            if let Some((all, count)) = rest.0.get_mut(language) {
                all.iter_mut().zip(sum).for_each(|(a, s)| *a -= s);
                *count -= n;
            }
        }
        rest
    }
}

/// A dot product in float64.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}
