//! Strings: finding their end, checking their escapes, resolving them.

use super::{Fault, Scanner};
use std::borrow::Cow;

/// A string's text between its quotes, whose escapes have been checked but not resolved.
///
/// An enum and not a struct with a flag: the flag would leave a hole behind it, and copying around the hole in
/// overlapping pieces stalled for half of a decode's time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::event) enum Text<'a> {
    Plain(&'a str),
    Escaped(&'a str),
}

impl<'a> Text<'a> {
    /// As it stands in the document, without its quotes.
    pub(in crate::event) fn raw(self) -> &'a str {
        match self {
            Self::Plain(text) | Self::Escaped(text) => text,
        }
    }

    /// The string that is meant; borrowed unless it has escapes.
    #[inline]
    pub(in crate::event) fn unescape(self) -> Cow<'a, str> {
        match self {
            Self::Plain(text) => Cow::Borrowed(text),
            Self::Escaped(raw) => Cow::Owned(resolve(raw)),
        }
    }
}

impl<'a> Scanner<'a> {
    /// Reads a string from behind its opening quote to behind its closing one.
    #[inline(always)]
    pub(super) fn string(&mut self) -> Result<Text<'a>, Fault> {
        let start = self.at;
        let end = next_special(self.text.as_bytes(), start);
        self.at = end + 1;
        if self.text.as_bytes().get(end) == Some(&b'"') {
            return Ok(Text::Plain(&self.text[start..end]));
        }
        self.at = end;
        self.string_with_escapes(start)
    }

    /// The same from the first byte on that is not plain.
    #[cold]
    fn string_with_escapes(&mut self, start: usize) -> Result<Text<'a>, Fault> {
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                _ => return Err(Fault::Syntax), // a control character, or the document's end
            }
            self.at = next_special(self.text.as_bytes(), self.at);
        }
        let raw = &self.text[start..self.at];
        self.at += 1;
        Ok(Text::Escaped(raw))
    }

    /// Checks one escape, or a pair of surrogates, and steps behind it.
    fn escape(&mut self) -> Result<(), Fault> {
        let rest = &self.text.as_bytes()[self.at..];
        match rest.get(1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let unit = unit_escape(rest).ok_or(Fault::Syntax)?;
                self.at += 6;
                if is_high_surrogate(unit) && unit_escape(&rest[6..]).is_some_and(is_low_surrogate) {
                    self.at += 6;
                } else if is_high_surrogate(unit) || is_low_surrogate(unit) {
                    return Err(Fault::LoneSurrogate);
                }
            }
            _ => return Err(Fault::Syntax),
        }
        Ok(())
    }
}

/// The UTF-16 unit of the `\uXXXX` at the beginning of `text`.
fn unit_escape(text: &[u8]) -> Option<u16> {
    let [b'\\', b'u', digits @ ..] = text else { return None };
    digits.get(..4)?.iter().try_fold(0u16, |unit, &b| {
        let digit = char::from(b).to_digit(16).and_then(|d| u16::try_from(d).ok())?;
        Some(unit << 4 | digit)
    })
}

fn is_high_surrogate(unit: u16) -> bool {
    (0xd800..0xdc00).contains(&unit)
}

fn is_low_surrogate(unit: u16) -> bool {
    (0xdc00..0xe000).contains(&unit)
}

/// Resolves escapes that [`Scanner::escape`] has accepted.
#[cold]
fn resolve(raw: &str) -> String {
    let mut resolved = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((plain, escape)) = rest.split_once('\\') {
        resolved.push_str(plain);
        let (character, read) = match escape.as_bytes().first() {
            Some(b'u') => code_point(&rest.as_bytes()[plain.len()..]),
            Some(b'b') => ('\u{8}', 1),
            Some(b'f') => ('\u{c}', 1),
            Some(b'n') => ('\n', 1),
            Some(b'r') => ('\r', 1),
            Some(b't') => ('\t', 1),
            Some(&itself) => (char::from(itself), 1),
            None => unreachable!("a backslash at the end would have escaped the closing quote"),
        };
        resolved.push(character);
        rest = &escape[read..];
    }
    resolved.push_str(rest);
    resolved
}

/// The character of the one or two `\uXXXX` at the beginning of `text`, and how many bytes they have after the first
/// backslash.
fn code_point(text: &[u8]) -> (char, usize) {
    let units = [unit_escape(text), text.get(6..).and_then(unit_escape)];
    let character = char::decode_utf16(units.into_iter().flatten()).next().and_then(Result::ok);
    let character = character.expect("decode rejects lone surrogates and broken escapes");
    (character, if character.len_utf16() == 2 { 11 } else { 5 })
}

const STEP: usize = size_of::<u64>();

/// The place of the first quote, backslash or control character from `from` on; the length if there is none.
#[inline(always)]
fn next_special(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let hits = special_bytes(u64::from_le_bytes(*word));
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += STEP;
    }
    while bytes.get(at).is_some_and(|&b| !is_special(b)) {
        at += 1;
    }
    at
}

#[inline(always)]
const fn is_special(byte: u8) -> bool {
    byte == b'"' || byte == b'\\' || byte < b' '
}

/// Eight bytes at once, the first in the lowest place: the highest bit of each special byte is set, and no bit below the
/// first of them. (A borrow may set bits above it.)
#[inline(always)]
const fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    const fn below(word: u64, limit: u8) -> u64 {
        word.wrapping_sub(ONES * limit as u64) & !word & HIGH
    }
    let quotes = below(word ^ (ONES * b'"' as u64), 1);
    let backslashes = below(word ^ (ONES * b'\\' as u64), 1);
    quotes | backslashes | below(word, b' ')
}
