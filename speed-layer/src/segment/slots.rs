//! A hash table of eight bytes a place: a tag of 32 bits and a number of 32 bits.
//!
//! Segments hold millions of small things, and what they cost is the memory that counting one event touches. A place
//! here is a part of one cache line, tags are kept so that growing needs nothing else, and a table that is complete can
//! be packed to exactly what it holds.

use tidemark_core::prefetch::prefetch;

/// Finds numbers by tag and a test of the owner's; two numbers may have the same tag.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    tag: u32,
    number: u32,
}

impl Slot {
    const FREE: Self = Self { tag: 0, number: Slots::NONE };

    fn is_free(self) -> bool {
        self.number == Slots::NONE
    }
}

/// Where a tag's number is, or belongs.
pub(super) enum Place<'s> {
    Taken(&'s mut u32),
    Free(Free<'s>),
}

/// A free place for a tag.
pub(super) struct Free<'s> {
    slot: &'s mut Slot,
    len: &'s mut usize,
    tag: u32,
}

impl Free<'_> {
    /// Takes the place; any number but [`Slots::NONE`].
    #[inline]
    pub(super) fn put(self, number: u32) {
        debug_assert!(number != Slots::NONE, "the number of free places");
        *self.slot = Slot { tag: self.tag, number };
        *self.len += 1;
    }
}

impl Slots {
    /// The one number that cannot be kept.
    pub(super) const NONE: u32 = u32::MAX;

    /// The smallest table; a larger one has half as many places more, until at most three of four are taken.
    const SMALLEST: usize = 4;

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// True if there are no free places, so that nothing can be found.
    pub(super) fn is_packed(&self) -> bool {
        self.len == self.slots.len()
    }

    /// Tags and numbers, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        self.slots.iter().filter(|slot| !slot.is_free()).map(|slot| (slot.tag, slot.number))
    }

    pub(super) fn find(&self, tag: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let at = seek(&self.slots, tag, is_it);
        (!self.slots[at].is_free()).then_some(self.slots[at].number)
    }

    /// Asks for the memory that looking for a tag will need.
    #[inline]
    pub(super) fn prefetch(&self, tag: u32) {
        if let Some(slot) = self.slots.get(home(tag, self.slots.len())) {
            prefetch(slot);
        }
    }

    #[inline]
    pub(super) fn place(&mut self, tag: u32, is_it: impl Fn(u32) -> bool) -> Place<'_> {
        // Before the search, so that the place found is the place to take, and so that the search meets a free one.
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let at = seek(&self.slots, tag, is_it);
        let slot = &mut self.slots[at];
        if slot.is_free() { Place::Free(Free { slot, len: &mut self.len, tag }) } else { Place::Taken(&mut slot.number) }
    }

    #[cold]
    fn grow(&mut self) {
        let mut places = Self::SMALLEST;
        while (self.len + 1) * 4 > places * 3 {
            places += places / 2;
        }
        let former = std::mem::replace(&mut self.slots, vec![Slot::FREE; places]);
        for slot in former.into_iter().filter(|slot| !slot.is_free()) {
            let at = seek(&self.slots, slot.tag, |_| false);
            self.slots[at] = slot;
        }
    }

    /// Gives up the free places of a table in which hardly anything is looked up any more: the next place to be asked for
    /// makes them again.
    pub(super) fn pack(&mut self) {
        self.slots.retain(|slot| !slot.is_free());
        self.slots.shrink_to_fit();
    }
}

/// The place of a number, or the free one where it belongs. There must be a free place.
#[inline]
fn seek(slots: &[Slot], tag: u32, is_it: impl Fn(u32) -> bool) -> usize {
    let mut at = home(tag, slots.len());
    loop {
        let slot = slots[at];
        if slot.is_free() || (slot.tag == tag && is_it(slot.number)) {
            return at;
        }
        at += 1;
        if at == slots.len() {
            at = 0;
        }
    }
}

/// Where to begin looking for a tag: below the number of places. Tags may be dense, so they are multiplied by 2^32 over
/// the golden ratio first.
#[inline]
fn home(tag: u32, places: usize) -> usize {
    ((u128::from(tag.wrapping_mul(0x9E37_79B1)) * places as u128) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Few tags, so that many numbers share one.
        #[test]
        fn it_holds_what_a_map_holds(keys in proptest::collection::vec((0u32..8, 0u32..64), 0..300)) {
            let (mut slots, mut names, mut expected) = (Slots::default(), Vec::new(), BTreeMap::new());
            for key in keys {
                match slots.place(key.0, |number| names[number as usize] == key) {
                    Place::Taken(number) => prop_assert_eq!(Some(&*number), expected.get(&key)),
                    Place::Free(free) => {
                        let number = u32::try_from(names.len()).expect("few");
                        prop_assert!(expected.insert(key, number).is_none());
                        free.put(number);
                        names.push(key);
                    }
                }
            }
            for (key, number) in &expected {
                prop_assert_eq!(slots.find(key.0, |n| names[n as usize] == *key), Some(*number));
            }
            prop_assert_eq!(slots.find(9, |_| true), None);
            let held = |slots: &Slots| {
                let mut held: Vec<(u32, u32)> = slots.iter().collect();
                held.sort_unstable();
                held
            };
            let before = held(&slots);
            slots.pack();
            prop_assert_eq!((held(&slots), slots.len()), (before, expected.len()));
        }
    }

    #[test]
    fn a_packed_table_can_grow_again() {
        let mut slots = Slots::default();
        for tag in 0..100 {
            if let Place::Free(free) = slots.place(tag, |_| true) {
                free.put(tag);
            }
        }
        slots.pack();
        assert!(matches!(slots.place(7, |_| true), Place::Taken(&mut 7)));
        assert!(matches!(slots.place(100, |_| true), Place::Free(_)));
    }
}
