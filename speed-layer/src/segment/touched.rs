//! Which cells of a view have changed since it was last asked.

/// Cells that are noted at most, about: beyond that it is as good to look at all of them.
const MOST: usize = 1 << 16;

/// Noted changes.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Tables and groups, in order of their changes, some of them again and again.
    cells: Vec<(u32, u32)>,
    /// There were too many.
    more: bool,
}

impl Touched {
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "an epoch has at most 2^26 records, so as many windows")]
    pub(super) fn note(&mut self, table: usize, group: u32) {
        if self.cells.len() == MOST {
            self.tidy();
        }
        if !self.more {
            self.cells.push((table as u32, group));
        }
    }

    #[cold]
    fn tidy(&mut self) {
        self.cells.sort_unstable();
        self.cells.dedup();
        if self.cells.len() > MOST / 2 {
            self.more = true;
            self.cells = Vec::new();
        }
    }

    /// What has changed, each once and in order; `None` if it is too much. From here on nothing has.
    pub(super) fn take(&mut self) -> Option<Vec<(u32, u32)>> {
        self.tidy();
        let more = std::mem::take(&mut self.more);
        let cells = std::mem::take(&mut self.cells);
        (!more).then_some(cells)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_once_and_too_many_are_said_to_be() {
        let mut touched = Touched::default();
        for _ in 0..MOST {
            touched.note(1, 7);
            touched.note(0, 9);
        }
        assert_eq!(touched.take(), Some(vec![(0, 9), (1, 7)]));
        assert_eq!(touched.take(), Some(vec![]));
        (0..=MOST).for_each(|table| touched.note(table, 0));
        touched.note(0, 0);
        assert_eq!(touched.take(), None);
        assert_eq!(touched.take(), Some(vec![]));
    }
}
