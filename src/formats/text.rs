//! One spelling for texts that look the same.

use unicode_normalization::{UnicodeNormalization, is_nfc};

/// How the letters of a language are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Orthography {
    /// As they come. Turkish, for one, spells with the very `ş` that Romanian must not have.
    #[default]
    General,
    /// `ș` and `ț` with a comma below; older texts have the cedilla letters `ş` and `ţ`, which are other tokens.
    Romanian,
}

impl Orthography {
    /// By a language's code or English name, in any case: `ro`, `ron_Latn`, `ro-MD`, `romanian`.
    pub fn of_language(language: &str) -> Orthography {
        let primary = language.split(['-', '_']).next().unwrap_or_default().to_lowercase();
        match primary.as_str() {
            "ro" | "ron" | "rum" | "romanian" => Orthography::Romanian,
            _ => Orthography::General,
        }
    }

    /// By the letters themselves, for words of a language that nobody named: no other language of many speakers
    /// has `ț`, or `ţ`.
    pub fn detect<'a>(words: impl IntoIterator<Item = &'a str>) -> Orthography {
        let romanian = |c: char| matches!(c, 'ț' | 'Ț' | 'ţ' | 'Ţ');
        if words.into_iter().any(|word| word.nfc().any(romanian)) {
            Orthography::Romanian
        } else {
            Orthography::General
        }
    }

    /// The letter with its comma, where the orthography wants it.
    fn comma_below(self, letter: char) -> Option<char> {
        match (self, letter) {
            (Orthography::General, _) => None,
            (_, 'ş') => Some('ș'),
            (_, 'Ş') => Some('Ș'),
            (_, 'ţ') => Some('ț'),
            (_, 'Ţ') => Some('Ț'),
            _ => None,
        }
    }
}

/// Unicode's composed form (NFC), which is what tokenizers are trained on.
pub fn nfc(text: &str) -> String {
    if is_nfc(text) { text.into() } else { text.nfc().collect() }
}

/// NFC, and the letters of the orthography. Also counts the letters that were respelled.
pub fn normalise(text: &str, orthography: Orthography) -> (String, usize) {
    let mut respelled = 0;
    let letters = text.nfc().map(|letter| match orthography.comma_below(letter) {
        None => letter,
        Some(comma) => {
            respelled += 1;
            comma
        }
    });
    (letters.collect(), respelled)
}
