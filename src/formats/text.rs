//! One spelling for texts that look the same.

use std::path::{Path, PathBuf};
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Why a file of text cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its bytes are no text.
    #[error("{}:{line}: not UTF-8; save the file as UTF-8", path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
        /// The first line that is not, from 1.
        line: usize,
    },
}

/// Reads a file in UTF-8, without the mark that some editors put before its first letter.
pub fn read(path: &Path) -> Result<String, TextError> {
    let bytes = std::fs::read(path).map_err(|source| TextError::Read { path: path.into(), source })?;
    let mut text = String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        TextError::Encoding { path: path.into(), line }
    })?;
    if text.starts_with(BYTE_ORDER_MARK) {
        text.remove(0);
    }
    Ok(text)
}

const BYTE_ORDER_MARK: char = '\u{feff}';

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
