//! Which tile of `gemm_sm90.cu` a product gets.

use kiungo::ops::gemm::tiles::{DEPTH, MOST_SPLITS, TILES, choose};

/// What was fastest on an H100, or within a few percent of it.
#[test]
fn llama_products_get_the_tiles_that_were_fastest() {
    let cases: &[([usize; 3], &[&str])] = &[
        ([4096, 4096, 4096], &["256"]),
        ([4096, 14336, 4096], &["256"]),
        ([2048, 4096, 14336], &["256"]),
        ([8192, 1024, 4096], &["256", "128x256"]),
        ([768, 4096, 4096], &["128x192"]),
        ([512, 4096, 4096], &["128x128"]),
        ([1024, 4096, 4096], &["128x128", "128x256"]),
        ([512, 14336, 4096], &["224"]),
        ([1024, 14336, 4096], &["224"]),
        ([1024, 4096, 14336], &["128x256"]),
        ([4096, 4096, 64], &["128x256", "128x192", "128x128"]),
        ([14336, 4096, 128], &["256", "192", "128", "128x256", "128x192", "128x128"]),
        ([1024, 4096, 512], &["128x256", "128x128"]),
        ([1024, 4096, 768], &["128x256", "128x128"]),
        ([768, 4096, 1024], &["128x192"]),
        ([512, 1024, 4096], &["64x64"]),
        ([768, 1024, 4096], &["64x128"]),
        ([64, 4096, 4096], &["64x64"]),
        ([128, 4096, 1024], &["64x64", "64x128"]),
        ([1, 14336, 4096], &["64x64", "64x128"]),
        ([16, 1024, 4096], &["split_64x64", "split_64x128"]),
        ([128, 14336, 4096], &["64x128", "128x128"]),
        ([128, 4096, 14336], &["64x64"]),
        ([1, 4096, 128_256], &["64x64", "split_64x128"]),
        ([64, 4096, 128_256], &["64x64", "split_64x128"]),
    ];
    for (sizes, fastest) in cases {
        let (tile, splits) = choose(132, *sizes);
        assert!(fastest.contains(&tile.name), "{sizes:?} gets {} in {splits} parts, not {fastest:?}", tile.name);
    }
}

#[test]
fn every_part_of_k_has_a_step_and_shared_memory_suffices() {
    const MOST_SHARED: u32 = 227 << 10;
    for m in [1, 3, 65, 300, 5000] {
        for k in [1, 64, 65, 200, 4096] {
            let (tile, splits) = choose(132, [m, 576, k]);
            assert!(splits <= k.div_ceil(DEPTH) && splits <= MOST_SPLITS, "{m} x 576 x {k}: {tile:?} {splits}");
        }
    }
    for tile in TILES {
        // One KB for the barriers.
        assert!(tile.shared_bytes() + 1024 <= MOST_SHARED, "{tile:?}");
    }
}
