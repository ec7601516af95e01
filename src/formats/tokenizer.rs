//! Texts to token ids, by a checkpoint's `tokenizer.json`.

use super::output::{self, OutputError};
use super::text::nfc;
use crate::llama::config::Config;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use tokenizers::{PostProcessor, TruncationDirection};

/// Name of the file in a checkpoint's folder.
pub const FILE: &str = "tokenizer.json";

/// Where the token at the beginning of a sequence comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bos {
    /// The model's BOS is put in front where the tokenizer puts none.
    #[default]
    Add,
    /// What the tokenizer itself does, be it nothing.
    Tokenizer,
}

impl std::fmt::Display for Bos {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Bos::Add => "add",
            Bos::Tokenizer => "tokenizer",
        })
    }
}

impl std::str::FromStr for Bos {
    type Err = String;
    fn from_str(word: &str) -> Result<Bos, String> {
        match word {
            "add" => Ok(Bos::Add),
            "tokenizer" => Ok(Bos::Tokenizer),
            _ => Err(format!("`{word}` is not a way to begin a sequence; expected add or tokenizer")),
        }
    }
}

/// Copies a checkpoint's tokenizer, and what transformers reads beside it, into another folder.
pub fn copy(from: &Path, to: &Path) -> Result<(), OutputError> {
    for file in [FILE, "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"] {
        let path = from.join(file);
        if path.is_file() {
            let contents = std::fs::read(&path).map_err(|source| OutputError::Write { path, source })?;
            output::write_file(&to.join(file), contents)?;
        }
    }
    Ok(())
}

/// Why a text cannot be turned into tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file cannot be read, or is not a tokenizer.
    #[error("{}: {message}; expected a tokenizer.json as Hugging Face's tokenizers library writes it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// Some tokens have no row in the embedding.
    #[error(
        "{}: token ids go up to {last}, but the model's embedding has {rows} rows; take the tokenizer of the same checkpoint",
        path.display()
    )]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// The highest token id.
        last: u32,
        /// Rows of the embedding.
        rows: usize,
    },
    /// A BOS was asked for, and the model has none.
    #[error("{}: the model's config.json has no bos_token_id to add; use --bos tokenizer", path.display())]
    NoBos {
        /// The tokenizer's file.
        path: PathBuf,
    },
    /// The longest sequence allowed has no room for a token of the text.
    #[error("a maximum of {max_length} tokens leaves no room beside {special} special ones")]
    MaxLength {
        /// Tokens allowed.
        max_length: usize,
        /// Tokens that are added to every text.
        special: usize,
    },
    /// No token is left of the text.
    #[error("{text:?} gives no tokens; leave it out")]
    Empty {
        /// The text, or its beginning.
        text: String,
    },
    /// The tokenizer failed.
    #[error("{text:?}: {message}")]
    Encode {
        /// The text, or its beginning.
        text: String,
        /// Why.
        message: String,
    },
}

/// A text's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, each below the embedding's rows.
    pub ids: Vec<u32>,
    /// The end of the text was cut off.
    pub truncated: bool,
}

/// The tokenizer of a model.
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    /// The model's token for the beginning of a sequence.
    bos_id: Option<u32>,
    /// Special tokens that the tokenizer itself puts around a text.
    special: usize,
}

impl Tokenizer {
    /// Reads `tokenizer.json` in a checkpoint's folder. Every token must have a row in the model's embedding.
    pub fn open(folder: &Path, config: &Config) -> Result<Tokenizer, TokenizerError> {
        let path = folder.join(FILE);
        let read = |message: String| TokenizerError::Read { path: path.clone(), message };
        let bytes = std::fs::read(&path).map_err(|e| read(e.to_string()))?;
        // The library panics where JSON ends to be JSON inside its decoder's settings: said with line and column here.
        serde_json::from_slice::<serde_json::Value>(&bytes).map_err(|e| read(e.to_string()))?;
        let opened = caught(|| {
            let mut inner = tokenizers::Tokenizer::from_bytes(&bytes)?;
            // Files in the wild hold the settings of their last training; sequences here are packed and cut by `encode`.
            inner.with_padding(None);
            inner.with_truncation(None)?;
            let last = inner.get_vocab(true).into_values().max().unwrap_or(0);
            let special = inner.get_post_processor().map_or(0, |p| p.added_tokens(false));
            // Fails on what it would fail on at every text.
            inner.post_process(Default::default(), None, true)?;
            Ok((inner, last, special))
        });
        let (inner, last, special) = opened.map_err(read)?;
        if last as usize >= config.vocab_size {
            return Err(TokenizerError::Vocabulary { path, last, rows: config.vocab_size });
        }
        Ok(Tokenizer { path, inner, bos_id: config.bos_token_id, special })
    }

    /// The tokens of a text, at most `max_length` with the special ones.
    ///
    /// The text is brought to NFC first. With [`Bos::Add`] the model's BOS comes in front, unless the tokenizer
    /// began with it already. A text that gives no token of its own is an error.
    pub fn encode(&self, text: &str, bos: Bos, max_length: usize) -> Result<Encoded, TokenizerError> {
        let failed = |message| TokenizerError::Encode { text: beginning(text), message };
        let bare = caught(|| self.inner.encode_fast(nfc(text), false)).map_err(failed)?;
        let (front, kept, truncated) = self.finish(text, bare, bos, max_length)?;
        Ok(Encoded { ids: front.into_iter().chain(kept.get_ids().iter().copied()).collect(), truncated })
    }

    /// [`Tokenizer::encode`], and for each of `spans`, which are ascending ranges of bytes of a text in NFC, its tokens.
    ///
    /// A token belongs to the span that it ends in, or else to the one before, for it may begin with the space in between;
    /// special tokens belong to none. A span that was cut off has none.
    pub fn encode_spans(
        &self,
        text: &str,
        spans: &[Range<usize>],
        bos: Bos,
        max_length: usize,
    ) -> Result<(Encoded, Vec<Range<usize>>), TokenizerError> {
        let failed = |message| TokenizerError::Encode { text: beginning(text), message };
        let bare = caught(|| self.inner.encode(text, false)).map_err(failed)?;
        let (front, kept, truncated) = self.finish(text, bare, bos, max_length)?;
        let front: Vec<u32> = front.into_iter().collect();
        let mut tokens: Vec<Range<usize>> = spans.iter().map(|_| 0..0).collect();
        let special = kept.get_special_tokens_mask();
        for (i, (&(_, end), _)) in kept.get_offsets().iter().zip(special).enumerate().filter(|(_, (_, s))| **s == 0) {
            let Some(span) = spans.partition_point(|span| span.start < end).checked_sub(1) else { continue };
            let (token, range) = (front.len() + i, &mut tokens[span]);
            *range = if range.start == range.end { token..token + 1 } else { range.start..token + 1 };
        }
        Ok((Encoded { ids: front.into_iter().chain(kept.get_ids().iter().copied()).collect(), truncated }, tokens))
    }

    /// Cuts a text's own tokens, puts special ones around them, and says which BOS comes in front.
    fn finish(
        &self,
        text: &str,
        bare: tokenizers::Encoding,
        bos: Bos,
        max_length: usize,
    ) -> Result<(Option<u32>, tokenizers::Encoding, bool), TokenizerError> {
        let failed = |message| TokenizerError::Encode { text: beginning(text), message };
        let front = match bos {
            Bos::Tokenizer => None,
            Bos::Add => Some(self.bos_id.ok_or_else(|| TokenizerError::NoBos { path: self.path.clone() })?),
        };
        if bare.is_empty() {
            return Err(TokenizerError::Empty { text: beginning(text) });
        }
        let finished = |bare| caught(|| self.inner.post_process(bare, None, true)).map_err(failed);
        let whole = finished(bare.clone())?;
        let front = front.filter(|bos| whole.get_ids().first() != Some(bos));
        let special = self.special + usize::from(front.is_some());
        let room = max_length.checked_sub(special).filter(|&room| room > 0);
        let room = room.ok_or(TokenizerError::MaxLength { max_length, special })?;
        let truncated = bare.len() > room;
        let kept = if truncated {
            let mut kept = bare;
            kept.truncate(room, 0, TruncationDirection::Right);
            finished(kept)?
        } else {
            whole
        };
        Ok((front, kept, truncated))
    }
}

/// How texts become tokens.
#[derive(Clone, Copy)]
pub struct Encoding<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Whether it is put in front.
    pub bos: Bos,
    /// Longest text.
    pub max_length: usize,
}

impl Encoding<'_> {
    /// The tokens of a text; counts it where it was cut.
    pub fn ids(&self, text: &str, truncated: &mut usize) -> Result<Vec<u32>, TokenizerError> {
        let encoded = self.tokenizer.encode(text, self.bos, self.max_length)?;
        *truncated += usize::from(encoded.truncated);
        Ok(encoded.ids)
    }

    /// The same, with the tokens of each of `spans`. See [`Tokenizer::encode_spans`].
    pub fn parts(
        &self,
        text: &str,
        spans: &[Range<usize>],
        truncated: &mut usize,
    ) -> Result<(Vec<u32>, Vec<Range<usize>>), TokenizerError> {
        let (encoded, parts) = self.tokenizer.encode_spans(text, spans, self.bos, self.max_length)?;
        *truncated += usize::from(encoded.truncated);
        Ok((encoded.ids, parts))
    }
}

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// True while a panic of this thread would become a [`TokenizerError`]; a panic hook need not report it.
pub fn catches_panics() -> bool {
    CATCHING.get()
}

/// What the tokenizers library returns, or why it does not: on some damaged files it panics.
fn caught<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    CATCHING.set(true);
    // What a panic leaves half done is dropped with the tokenizer, or was only read.
    let result = catch_unwind(AssertUnwindSafe(call));
    CATCHING.set(false);
    let result = result.map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        format!("the tokenizers library gave up ({said})")
    })?;
    result.map_err(|e| e.to_string())
}

/// Enough of a text to find it by.
fn beginning(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}
