//! What the bytes of 8-bit moments mean: floats of eight bits beside an exponent that a block shares. It is that of the block's
//! largest magnitude, so that scaling is exact.
//!
//! A first moment is FP8 E4M3 (Micikevicius et al. 2022, arXiv 2209.05433): a sign, four bits of exponent, three of mantissa;
//! below 2^-14 of the block's largest it is subnormal. A second moment is never negative: five bits of exponent, three of
//! mantissa, no subnormal numbers and no 0, by which a step would divide. Either is within 1/16 of what it stands for
//! where it is rounded to nearest.

/// The largest exponent field of a float is 254, and a block's first moments are scaled to below 2^9.
const FIRST_LEAST: u32 = 9;
/// So many powers of two a second moment's code reaches.
const SECOND_RANGE: u32 = 32;

fn power(exponent: u32) -> f32 {
    f32::from_bits(exponent << 23)
}

/// The E4M3 nearest to `x`, of two the even one; `|x|` below 464, where 448, the largest, ends.
pub fn e4m3(x: f32) -> u8 {
    let (bits, sign) = (x.abs().to_bits(), if x.is_sign_negative() { 0x80 } else { 0 });
    // Below 2^-6 codes are multiples of 2^-9, which is the last place of what 2^14 is added to.
    let magnitude = if x.abs() < power(127 - 6) {
        (x.abs() + power(127 + 14)).to_bits() - power(127 + 14).to_bits()
    } else {
        ((bits + 0x7_ffff + (bits >> 20 & 1)) >> 20) - (120 << 3)
    };
    sign | magnitude as u8
}

/// What it stands for. As a float's bits its magnitude is 2^-120 too small.
pub fn e4m3_value(code: u8) -> f32 {
    let code = u32::from(code);
    f32::from_bits((code & 0x7f) << 20 | (code & 0x80) << 24) * power(127 + 120)
}

/// The exponent of a block whose first moments are at most `most` in magnitude: scaled, that is from 224 to 448.
pub fn first_exponent(most: f32) -> u8 {
    (((most.to_bits() + (1 << 21)) >> 23).max(FIRST_LEAST) - FIRST_LEAST) as u8
}

/// What the codes of its block are multiplied with.
pub fn first_scale(exponent: u8) -> f32 {
    power(u32::from(exponent) + 1)
}

/// The code of a first moment.
pub fn first_code(x: f32, exponent: u8) -> u8 {
    e4m3(x * power(253 - u32::from(exponent)))
}

/// The exponent of a block whose second moments are at most `most`, which stays in range even if rounded up.
pub fn second_exponent(most: f32) -> u8 {
    (((most.to_bits() + 0xf_ffff) >> 23).max(SECOND_RANGE) - SECOND_RANGE) as u8
}

/// What a second moment's code stands for.
pub fn second_value(code: u8, exponent: u8) -> f32 {
    f32::from_bits((u32::from(code) << 20) + ((u32::from(exponent) + 1) << 23))
}

/// The code of a second moment: the one above it with the probability of what is cut off, by 24 random bits.
pub fn second_code(x: f32, exponent: u8, random: u32) -> u8 {
    let least = second_value(0, exponent);
    let above = u64::from(x.max(least).to_bits() - least.to_bits());
    ((above * 16 + u64::from(random)) >> 24) as u8
}
