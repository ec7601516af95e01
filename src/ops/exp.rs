//! The exponential of the CPU loops over many elements: vectorised by the compiler where std's is a call an element,
//! and the same bytes on every machine.

/// `e^x` within 1.2e-7 of it (one unit in the last place), for -87 <= x <= 88; beyond, the value at that end.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first with few enough bits that its product with the integer is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    // (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2, the minimax polynomial of Cephes' expf.
    const C: [f32; 6] = [1.987_569_2e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5];
    let p = C.iter().fold(0.0, |p, c| p * r + c);
    let power_of_two = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    (p * r * r + r + 1.0) * power_of_two
}
