//! Prometheus's queries over windows, answered by the same planner and engine as all others, each at one cut.
//!
//! A window is a sample at its end (`metric`). A query's text becomes an `expression` over `lookup`s (`translate`);
//! these together become one question (`gather`), the rows of its answer become `series` again, over which the
//! expression is `evaluate`d; and `envelope` writes the result. All of it but [`ask`] is pure.

pub mod ask;
mod envelope;
mod evaluate;
mod expression;
mod failure;
mod gather;
mod labels;
mod lookup;
mod metric;
mod series;
mod translate;

pub use envelope::{Remarks, error, success};
pub use failure::{Failure, bad};
pub use lookup::{Span, Times};
pub use metric::{METRICS, edge_before};
pub use translate::duration_secs;

#[cfg(test)]
mod tests;

/// For `tests/fuzz`.
#[cfg(fuzzing)]
pub mod fuzzing {
    pub fn translate(views: &tidemark_core::view::Views, text: &str) {
        let _ = super::translate::translate(views, text);
        let _ = super::translate::selected(views, text);
        let _ = super::translate::duration_secs(text);
    }
}
