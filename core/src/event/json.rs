//! A strict JSON scanner (RFC 8259) that copies nothing: it accepts what serde_json accepts, and hands out where the
//! values of the top object stand. Nesting is followed with a stack of bits, never by recursion.

mod string;

pub(super) use string::Text;

use crate::event::Reject;
use std::borrow::Cow;

/// What is wrong with a document where reading stopped: of [`Reject`] the part that a scanner can find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Syntax,
    TooDeep,
    LoneSurrogate,
}

impl From<Fault> for Reject {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Syntax => Self::NotJson,
            Fault::TooDeep => Self::TooDeep,
            Fault::LoneSurrogate => Self::LoneSurrogate,
        }
    }
}

/// A value as it stands in the document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Value<'a> {
    /// A string.
    String(Text<'a>),
    /// A number's literal.
    Number(&'a str),
    /// An object's text, brackets included.
    Object(&'a str),
    /// An array's text, brackets included.
    Array(&'a str),
    Bool(bool),
    Null,
}

impl<'a> Value<'a> {
    /// The value as text: a string with its escapes resolved, everything else as it stands.
    pub(super) fn text(self) -> Cow<'a, str> {
        Cow::Borrowed(match self {
            Self::String(text) => return text.unescape(),
            Self::Number(json) | Self::Object(json) | Self::Array(json) => json,
            Self::Bool(true) => "true",
            Self::Bool(false) => "false",
            Self::Null => "null",
        })
    }
}

pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// The members of an object that a [`Scanner`] has accepted before; none for the empty text.
pub(super) fn members<'a>(object: &'a str) -> impl Iterator<Item = (Text<'a>, Value<'a>)> + use<'a> {
    let mut scanner = Scanner { text: object, at: 1, max_depth: Scanner::DEEPEST };
    std::iter::from_fn(move || scanner.next_member())
}

pub(super) struct Scanner<'a> {
    text: &'a str,
    /// The first byte that has not been read.
    at: usize,
    max_depth: u32,
}

impl<'a> Scanner<'a> {
    /// One bit for each open bracket.
    const DEEPEST: u32 = u128::BITS;

    pub(super) fn new(text: &'a str, max_depth: u32) -> Self {
        Self { text, at: 0, max_depth: max_depth.min(Self::DEEPEST) }
    }

    /// Reads the document to its end and calls `member` for each member of the top object. True if there is one:
    /// else the document is another kind of value.
    #[inline]
    pub(super) fn document(&mut self, member: impl FnMut(Text<'a>, Value<'a>)) -> Result<bool, Reject> {
        let is_object = self.token() == Some(b'{');
        if is_object {
            self.top_object(member)?;
        } else {
            self.value(0)?;
        }
        if self.token().is_none() { Ok(is_object) } else { Err(Fault::Syntax.into()) }
    }

    #[inline]
    fn top_object(&mut self, mut member: impl FnMut(Text<'a>, Value<'a>)) -> Result<(), Fault> {
        if self.max_depth < 1 {
            return Err(Fault::TooDeep);
        }
        self.at += 1;
        if self.token() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let name = self.name()?;
            let value = self.value(1)?;
            member(name, value);
            match self.token() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(Fault::Syntax),
            }
        }
        self.at += 1;
        Ok(())
    }

    /// The next member of the object that the scanner is inside of; `None` at its end.
    fn next_member(&mut self) -> Option<(Text<'a>, Value<'a>)> {
        if self.token()? == b',' {
            self.at += 1;
        }
        let name = self.name().ok()?;
        Some((name, self.value(1).ok()?))
    }

    /// Skips whitespace; the byte that follows it, which is not read yet.
    #[inline(always)]
    fn token(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        // Every whitespace byte is at most a space, and no byte that may begin a token is.
        if byte > b' ' { Some(byte) } else { self.token_after_whitespace() }
    }

    fn token_after_whitespace(&mut self) -> Option<u8> {
        loop {
            let byte = self.peek()?;
            if !is_space(byte) {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    #[inline(always)]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.token() != Some(byte) {
            return Err(Fault::Syntax);
        }
        self.at += 1;
        Ok(())
    }

    /// A member's name and the colon behind it.
    #[inline(always)]
    fn name(&mut self) -> Result<Text<'a>, Fault> {
        self.expect(b'"')?;
        let name = self.string()?;
        self.expect(b':')?;
        Ok(name)
    }

    /// Reads any value; `depth` is how many brackets are open around it.
    #[inline(always)]
    fn value(&mut self, depth: u32) -> Result<Value<'a>, Fault> {
        match self.token() {
            Some(b'"') => {
                self.at += 1;
                self.string().map(Value::String)
            }
            Some(open @ (b'{' | b'[')) => self.container(open, depth),
            Some(first) => self.scalar(first),
            None => Err(Fault::Syntax),
        }
    }

    #[inline(always)]
    fn scalar(&mut self, first: u8) -> Result<Value<'a>, Fault> {
        match first {
            b'-' | b'0'..=b'9' => self.number().map(Value::Number),
            b'n' => self.literal(b"null", Value::Null),
            b't' => self.literal(b"true", Value::Bool(true)),
            b'f' => self.literal(b"false", Value::Bool(false)),
            _ => Err(Fault::Syntax),
        }
    }

    fn literal(&mut self, literal: &[u8], value: Value<'a>) -> Result<Value<'a>, Fault> {
        if !self.text.as_bytes()[self.at..].starts_with(literal) {
            return Err(Fault::Syntax);
        }
        self.at += literal.len();
        Ok(value)
    }

    #[inline]
    fn number(&mut self) -> Result<&'a str, Fault> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    /// One digit or more.
    #[inline]
    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(Fault::Syntax) }
    }

    /// Reads an object or array from its opening bracket, which is `open`, to its closing one.
    fn container(&mut self, open: u8, outer_depth: u32) -> Result<Value<'a>, Fault> {
        let start = self.at;
        let mut brackets = Brackets { kinds: 0, depth: outer_depth };
        let mut next = open;
        loop {
            // `next` begins a value.
            match next {
                b'{' | b'[' => {
                    if brackets.depth >= self.max_depth {
                        return Err(Fault::TooDeep);
                    }
                    self.at += 1;
                    brackets.open(next);
                    if self.token() != Some(brackets.closing()) {
                        next = self.member_value(&brackets)?;
                        continue;
                    }
                    self.at += 1;
                    brackets.close();
                }
                b'"' => {
                    self.at += 1;
                    self.string()?;
                }
                first => {
                    self.scalar(first)?;
                }
            }
            // Behind a value: close what ends here, until a comma announces another.
            while brackets.depth > outer_depth {
                let token = self.token();
                if token == Some(b',') {
                    break;
                }
                if token != Some(brackets.closing()) {
                    return Err(Fault::Syntax);
                }
                self.at += 1;
                brackets.close();
            }
            if brackets.depth == outer_depth {
                let json = &self.text[start..self.at];
                return Ok(if open == b'{' { Value::Object(json) } else { Value::Array(json) });
            }
            self.at += 1;
            next = self.member_value(&brackets)?;
        }
    }

    /// The first byte of the next value inside the innermost bracket; in an object its name is read first.
    #[inline(always)]
    fn member_value(&mut self, brackets: &Brackets) -> Result<u8, Fault> {
        if brackets.in_object() {
            self.name()?;
        }
        self.token().ok_or(Fault::Syntax)
    }
}

/// The open brackets, innermost in the lowest bit: 1 for an object.
struct Brackets {
    kinds: u128,
    depth: u32,
}

impl Brackets {
    fn open(&mut self, bracket: u8) {
        self.kinds = self.kinds << 1 | u128::from(bracket == b'{');
        self.depth += 1;
    }

    fn close(&mut self) {
        self.kinds >>= 1;
        self.depth -= 1;
    }

    fn in_object(&self) -> bool {
        self.kinds & 1 == 1
    }

    fn closing(&self) -> u8 {
        if self.in_object() { b'}' } else { b']' }
    }
}
