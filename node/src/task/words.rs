//! Texts to tokens. The only file that names `tokenizers`.

use tokenizers::{PostProcessor as _, Tokenizer, TruncationParams};

use crate::engine::{clipped, guarded};

/// Largest tokenizer file, in bytes: three times that of a vocabulary for a hundred languages.
pub(crate) const TOKENIZER_BYTES_MAX: u64 = 64 << 20;

/// Longest text, in bytes. It is cut to the model's tokens only after the whole of it has been looked at, for which a
/// byte takes up to some hundred bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 256 << 10;

/// Longest complaint of the library that is passed on, in characters.
const COMPLAINT_CHARS_MAX: usize = 200;

/// A tokenizer that cuts texts to a number of tokens. Many threads may use it at once.
pub(crate) struct Words {
    tokenizer: Tokenizer,
    vocabulary: u32,
    pub(crate) tokens_max: usize,
    /// What shorter texts are filled with.
    pub(crate) filling: u32,
}

impl Words {
    /// Out of a file's text. It cuts to `tokens_max`, else to what the file says, else to 512.
    ///
    /// # Errors
    /// The library does not take it, or no token of a text would be left.
    pub(crate) fn new(file: &str, tokens_max: Option<usize>) -> Result<Self, String> {
        guarded(|| {
            let refused = |error: tokenizers::Error| clipped(&error.to_string(), COMPLAINT_CHARS_MAX);
            let mut tokenizer = Tokenizer::from_bytes(file).map_err(refused)?;
            let own = tokenizer.get_truncation().cloned();
            let tokens_max = tokens_max.or(own.as_ref().map(|own| own.max_length)).unwrap_or(512);
            let added = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
            if tokens_max <= added {
                return Err(format!("a text has at most {tokens_max} tokens, of which {added} are marks"));
            }
            let direction = own.map(|own| own.direction).unwrap_or_default();
            let cut = TruncationParams { max_length: tokens_max, direction, ..TruncationParams::default() };
            tokenizer.with_truncation(Some(cut)).map_err(refused)?;
            // Filled up where it is known which texts run together.
            let filling = tokenizer.get_padding().map_or(0, |padding| padding.pad_id);
            tokenizer.with_padding(None);
            let vocabulary = u32::try_from(tokenizer.get_vocab_size(true)).unwrap_or(u32::MAX);
            Ok(Self { tokenizer, vocabulary, tokens_max, filling })
        })
        .unwrap_or_else(|panic| Err(clipped(&panic, COMPLAINT_CHARS_MAX)))
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// In words for who sent it: it is too long, or the tokenizer has no token for a part of it.
    pub(crate) fn tokens(&self, text: &str) -> Result<Vec<u32>, String> {
        if TEXT_BYTES_MAX < text.len() {
            return Err(format!("it has {} bytes, of at most {TEXT_BYTES_MAX}", text.len()));
        }
        let encoded = guarded(|| self.tokenizer.encode_fast(text, true));
        match encoded {
            Ok(Ok(encoding)) => Ok(encoding.get_ids().to_vec()),
            Ok(Err(error)) => Err(clipped(&error.to_string(), COMPLAINT_CHARS_MAX)),
            Err(panic) => Err(clipped(&panic, COMPLAINT_CHARS_MAX)),
        }
    }

    /// Tokens that the caller has made, cut.
    ///
    /// # Errors
    /// One is not in the vocabulary.
    pub(crate) fn given(&self, mut tokens: Vec<u32>) -> Result<Vec<u32>, String> {
        if let Some(strange) = tokens.iter().find(|token| self.vocabulary <= **token) {
            return Err(format!("it holds the token {strange}, of a vocabulary of {}", self.vocabulary));
        }
        tokens.truncate(self.tokens_max);
        Ok(tokens)
    }
}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Words").field("vocabulary", &self.vocabulary).finish_non_exhaustive()
    }
}
