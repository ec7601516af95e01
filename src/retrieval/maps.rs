//! Linear maps from one language's embeddings to another's, fitted on pairs: baselines that leave the model as it is.

use super::Embeddings;
use nalgebra::DMatrix;

/// How a map is fitted to rows `s` of the source side and `t` of the target side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The orthogonal `w` that brings `s w` closest to `t` (Schönemann 1966): `u v'` of the singular value decomposition of
    /// `s' t`.
    Procrustes,
    /// Any `w`, kept small: it minimises `|s w - t|^2 + |w|^2`, for rows of unit length.
    Ridge,
}

/// Why no map could be fitted.
#[derive(Debug, thiserror::Error)]
#[error("a {fit} map: {message}")]
pub struct FitError {
    fit: &'static str,
    message: String,
}

/// A square matrix, `[width, width]`.
#[derive(Clone, Debug)]
pub struct Map(DMatrix<f32>);

impl Map {
    /// Fitted on rows that belong together.
    pub fn fit(fit: Fit, source: &Embeddings, target: &Embeddings) -> Result<Map, FitError> {
        let refuse = |fit, message: &str| FitError { fit, message: message.into() };
        let (s, t) = (matrix(source).cast::<f64>(), matrix(target).cast::<f64>());
        if s.shape() != t.shape() {
            return Err(refuse("linear", &format!("{:?} source values, {:?} target values", s.shape(), t.shape())));
        }
        let product = s.tr_mul(&t);
        let weights = match fit {
            Fit::Procrustes => {
                let svd = product.try_svd(true, true, f64::EPSILON, 0);
                let parts = svd.and_then(|svd| Some(svd.u? * svd.v_t?));
                parts.ok_or_else(|| refuse("Procrustes", "the decomposition does not converge"))?
            }
            Fit::Ridge => {
                let width = s.ncols();
                let gram = s.tr_mul(&s) + DMatrix::identity(width, width);
                let factor = gram.cholesky().ok_or_else(|| refuse("ridge", "the embeddings are not finite"))?;
                factor.solve(&product)
            }
        };
        Ok(Map(weights.cast()))
    }

    /// Rows times the map, brought back to unit length.
    pub fn apply(&self, rows: &Embeddings) -> Embeddings {
        let mapped = matrix(rows) * &self.0;
        // nalgebra holds columns together, so the transpose's values come row after row.
        Embeddings::normalised(mapped.transpose().as_slice().to_vec(), rows.width())
    }
}

fn matrix(rows: &Embeddings) -> DMatrix<f32> {
    DMatrix::from_row_slice(rows.len(), rows.width(), rows.values())
}
