//! The host's vector units: loops compiled for them, and the matrix product.

use gemm_common::Parallelism;

/// Runs a loop compiled for the widest vectors of this CPU. All give the same bytes: the compiler neither reorders
/// sums nor fuses multiplications with additions. A long closure needs `#[inline(always)]`, as its callees do.
#[inline(always)]
pub fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// A matrix in a slice: element (i, j) is at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> View<'a> {
    /// A row-major matrix whose rows follow each other.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> View<'a> {
        View::strided(data, rows, columns, columns)
    }

    /// A row-major matrix whose rows begin `row_stride` elements apart: some columns of a wider one.
    ///
    /// Panics if the slice is too short.
    pub fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> View<'a> {
        assert_fits(data.len(), rows, columns, row_stride);
        View { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> View<'a> {
        View {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// A row-major matrix in a slice, to write.
#[derive(Debug)]
pub struct ViewMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
}

impl<'a> ViewMut<'a> {
    /// Rows that follow each other.
    pub fn new(data: &'a mut [f32], rows: usize, columns: usize) -> ViewMut<'a> {
        ViewMut::strided(data, rows, columns, columns)
    }

    /// Rows that begin `row_stride` elements apart. Panics if the slice is too short, or rows overlap.
    pub fn strided(data: &'a mut [f32], rows: usize, columns: usize, row_stride: usize) -> ViewMut<'a> {
        assert_fits(data.len(), rows, columns, row_stride);
        ViewMut { data, rows, columns, row_stride }
    }
}

fn assert_fits(len: usize, rows: usize, columns: usize, row_stride: usize) {
    let needed = if rows == 0 || columns == 0 { 0 } else { (rows - 1) * row_stride + columns };
    assert!(
        len >= needed && row_stride >= columns,
        "{rows} x {columns} with row stride {row_stride} in {len} elements"
    );
}

/// Who works on a product. The result is the same to the bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The calling thread alone: for callers that are parallel themselves.
    One,
    /// All threads of the current rayon pool.
    Pool,
}

/// What becomes of the elements that the result is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// They are overwritten, whatever they were.
    Replace,
    /// The result is added to them.
    Add,
}

/// `c = scale * a b`, or `c += scale * a b`, in f32, by the `gemm-f32` crate.
///
/// Panics unless the shapes fit each other.
pub fn matmul(scale: f32, a: View, b: View, store: Store, c: ViewMut, threads: Threads) {
    assert!(
        a.rows == c.rows && b.columns == c.columns && a.columns == b.rows,
        "product of {} x {} and {} x {} into {} x {}",
        a.rows,
        a.columns,
        b.rows,
        b.columns,
        c.rows,
        c.columns
    );
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::Pool => Parallelism::Rayon(0),
    };
    let stride = |s: usize| s as isize;
    // It likes its result's columns together, and ours has its rows: c^T = b^T a^T.
    let product = gemm_f32::gemm::f32::get_gemm_fn();
    // SAFETY: the views' constructors have checked that every (i, j) lies in their slices, the shapes agree, and
    // `c` is borrowed mutably, so that it overlaps neither `a` nor `b`.
    unsafe {
        product(
            c.columns,
            c.rows,
            a.columns,
            c.data.as_mut_ptr(),
            stride(c.row_stride),
            1,
            store == Store::Add,
            b.data.as_ptr(),
            stride(b.row_stride),
            stride(b.column_stride),
            a.data.as_ptr(),
            stride(a.row_stride),
            stride(a.column_stride),
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        )
    }
}
