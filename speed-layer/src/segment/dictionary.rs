//! The values of one dimension in a segment, numbered in order of appearance.

use super::slots::{Place, Slots};
use foldhash::fast::FixedState;
use std::hash::BuildHasher;

#[derive(Debug, Default)]
pub(super) struct Dictionary {
    /// All values, one behind the other.
    text: String,
    /// Where each value ends.
    ends: Vec<usize>,
    slots: Slots,
    hasher: FixedState,
}

impl Dictionary {
    /// The number of a value, which gets one if it has none; the tag is the value's.
    #[inline]
    pub(super) fn intern(&mut self, tag: u32, value: &str) -> u32 {
        let Self { text, ends, slots, .. } = self;
        match slots.place(tag, |number| at(text, ends, number) == value) {
            Place::Taken(number) => *number,
            Place::Free(free) => {
                let number = u32::try_from(ends.len()).expect("an epoch has at most 2^26 records, so as many values");
                text.push_str(value);
                ends.push(text.len());
                free.put(number);
                number
            }
        }
    }

    /// The value's tag, whose memory is asked for.
    #[inline]
    pub(super) fn tag(&self, value: &str) -> u32 {
        let tag = self.tag_of(value);
        self.slots.prefetch(tag);
        tag
    }

    pub(super) fn number(&self, value: &str) -> Option<u32> {
        self.slots.find(self.tag_of(value), |number| self.value(number) == value)
    }

    /// The value of a number that this dictionary has given.
    pub(super) fn value(&self, number: u32) -> &str {
        at(&self.text, &self.ends, number)
    }

    pub(super) fn pack(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "half of the hash is what is wanted")]
    fn tag_of(&self, value: &str) -> u32 {
        self.hasher.hash_one(value) as u32
    }
}

#[inline]
fn at<'t>(text: &'t str, ends: &[usize], number: u32) -> &'t str {
    let number = number as usize;
    let from = if number == 0 { 0 } else { ends[number - 1] };
    &text[from..ends[number]]
}
