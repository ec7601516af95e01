//! Mutations that know JSON and safetensors, so that some of the damage gets past the first check.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore};
use serde_json::{Value, json};

/// Numbers at which arithmetic goes wrong.
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1",
    "3",
    "65537",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "1e-308",
    "-0.0",
    "0.5",
    "1e999",
];
/// Names with a path in them, and names that are long.
const TEXTS: &[&str] = &["", "..", "../x", "/etc/passwd", "a/b", "\u{0}", "ţ", "\u{feff}", "model.safetensors"];

/// One to three changes of a file.
pub fn mutate(seed: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.random_range(1..4) {
        bytes = match rng.random_range(0..4) {
            0 => change_bytes(bytes, rng),
            1 => change_number(bytes, rng),
            _ => change_json(bytes, rng),
        };
    }
    bytes
}

fn change_bytes(mut bytes: Vec<u8>, rng: &mut StdRng) -> Vec<u8> {
    if bytes.is_empty() {
        return vec![rng.random()];
    }
    let at = rng.random_range(0..bytes.len());
    let end = rng.random_range(at..=bytes.len());
    match rng.random_range(0..5) {
        0 => bytes[at] = rng.random(),
        1 => bytes[at] ^= 1 << rng.random_range(0..8),
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        _ => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
    }
    bytes
}

/// Another number in the place of one.
fn change_number(bytes: Vec<u8>, rng: &mut StdRng) -> Vec<u8> {
    let starts: Vec<usize> =
        (0..bytes.len()).filter(|&i| bytes[i].is_ascii_digit() && (i == 0 || !bytes[i - 1].is_ascii_digit())).collect();
    let Some(&at) = starts.choose(rng) else { return bytes };
    let end = bytes[at..].iter().position(|b| !b.is_ascii_digit()).map_or(bytes.len(), |n| at + n);
    let number = NUMBERS.choose(rng).copied().unwrap_or("0");
    [&bytes[..at], number.as_bytes(), &bytes[end..]].concat()
}

/// The JSON of a file, or of a safetensors header, whose length is put right.
fn change_json(bytes: Vec<u8>, rng: &mut StdRng) -> Vec<u8> {
    if let Ok(mut value) = serde_json::from_slice(&bytes) {
        change_value(&mut value, rng);
        return value.to_string().into_bytes();
    }
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return change_bytes(bytes, rng) };
    let length = u64::from_le_bytes(*length) as usize;
    let Some((header, data)) = rest.split_at_checked(length) else { return change_bytes(bytes, rng) };
    let Ok(mut value) = serde_json::from_slice::<Value>(header) else { return change_bytes(bytes, rng) };
    change_value(&mut value, rng);
    let header = value.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Some value in it becomes another one, or goes, or comes twice.
fn change_value(value: &mut Value, rng: &mut StdRng) {
    let deeper = rng.random_range(0..4) > 0;
    match value {
        Value::Object(map) if deeper && !map.is_empty() => {
            let at = rng.random_range(0..map.len());
            let Some(key) = map.keys().nth(at).cloned() else { return };
            match rng.random_range(0..8) {
                0 => drop(map.remove(&key)),
                1 => {
                    let (name, copy) = (TEXTS.choose(rng).copied().unwrap_or("").to_string(), map[&key].clone());
                    map.insert(name, copy);
                }
                _ => change_value(&mut map[&key], rng),
            }
        }
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = rng.random_range(0..items.len());
            match rng.random_range(0..8) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                _ => change_value(&mut items[at], rng),
            }
        }
        other => *other = any(rng),
    }
}

fn any(rng: &mut StdRng) -> Value {
    match rng.random_range(0..8) {
        0 => Value::Null,
        1 => json!(rng.random::<bool>()),
        2 => json!([]),
        3 => json!({}),
        4 => json!([rng.next_u64(), 0, 2]),
        5 => json!(TEXTS.choose(rng)),
        _ => NUMBERS.choose(rng).and_then(|n| serde_json::from_str(n).ok()).unwrap_or(Value::Null),
    }
}
