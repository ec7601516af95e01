use super::config::Projection;
use std::ops::{Index, IndexMut};

/// One value for each of a block's seven linear layers.
#[derive(Clone, Debug, Default)]
pub struct PerProjection<T>([T; Projection::ALL.len()]);

impl<T> PerProjection<T> {
    /// A value made for each.
    pub fn try_from_fn<E>(mut make: impl FnMut(Projection) -> Result<T, E>) -> Result<PerProjection<T>, E> {
        let values: Result<Vec<T>, E> = Projection::ALL.into_iter().map(&mut make).collect();
        match values?.try_into() {
            Ok(values) => Ok(PerProjection(values)),
            Err(_) => unreachable!("one value a projection"),
        }
    }

    /// Each projection with its value, in the order q, k, v, o, gate, up, down.
    pub fn iter(&self) -> impl Iterator<Item = (Projection, &T)> {
        Projection::ALL.into_iter().zip(&self.0)
    }

    /// The same, to write.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Projection, &mut T)> {
        Projection::ALL.into_iter().zip(&mut self.0)
    }
}

impl<T> Index<Projection> for PerProjection<T> {
    type Output = T;
    fn index(&self, projection: Projection) -> &T {
        &self.0[projection as usize]
    }
}

impl<T> IndexMut<Projection> for PerProjection<T> {
    fn index_mut(&mut self, projection: Projection) -> &mut T {
        &mut self.0[projection as usize]
    }
}
