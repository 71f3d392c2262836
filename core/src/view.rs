//! Views: what is counted, declared once in the configuration and computed twice.

use crate::event::Event;
use std::fmt;
use std::str::FromStr;

/// A field of the event that counts can be grouped and filtered by. An absent field and an empty one are the same
/// value, the empty string.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Dimension {
    EventType,
    ProductId,
    UserId,
}

impl Dimension {
    pub const ALL: [Self; 3] = [Self::EventType, Self::ProductId, Self::UserId];
    pub const COUNT: usize = Self::ALL.len();

    pub const fn name(self) -> &'static str {
        match self {
            Self::EventType => "event_type",
            Self::ProductId => "product_id",
            Self::UserId => "user_id",
        }
    }

    pub const fn index(self) -> usize {
        self as usize
    }

    pub fn value<'e>(self, event: &'e Event<'_>) -> &'e str {
        match self {
            Self::EventType => &event.event_type,
            Self::ProductId => event.product_id.as_deref().unwrap_or_default(),
            Self::UserId => event.user_id.as_deref().unwrap_or_default(),
        }
    }
}

impl FromStr for Dimension {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|d| d.name() == text).ok_or(())
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One declared view: its name, and the dimensions that its cells are keyed by, in that order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    name: String,
    dimensions: Vec<Dimension>,
}

impl View {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn dimensions(&self) -> &[Dimension] {
        &self.dimensions
    }
}

/// The declared views; at least one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Views(Vec<View>);

/// What is wrong with a declaration.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ViewError {
    #[error("no view is declared; declare at least one [[view]]")]
    None,
    #[error("view name `{0}` must be 1-40 of a-z, 0-9 and _, beginning with a letter, and not a table's name")]
    Name(String),
    #[error("two views are called `{0}`")]
    SameName(String),
    #[error("view `{view}`: `{dimension}` is not a dimension; choose from event_type, product_id, user_id")]
    UnknownDimension { view: String, dimension: String },
    #[error("view `{0}` must have at least one dimension, each once")]
    Dimensions(String),
}

impl Views {
    /// Names that the history's own tables take.
    const RESERVED: [&'static str; 4] = ["events", "dead_letters", "ledger", "generations"];

    pub fn declare<'a>(declared: impl IntoIterator<Item = (&'a str, Vec<&'a str>)>) -> Result<Self, ViewError> {
        let mut views: Vec<View> = Vec::new();
        for (name, dimensions) in declared {
            let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            let begins = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
            if !letters || !begins || name.len() > 40 || Self::RESERVED.contains(&name) {
                return Err(ViewError::Name(name.to_owned()));
            }
            if views.iter().any(|view| view.name == name) {
                return Err(ViewError::SameName(name.to_owned()));
            }
            let unknown = |d: &str| ViewError::UnknownDimension { view: name.to_owned(), dimension: d.to_owned() };
            let dimensions = dimensions.into_iter().map(|d| d.parse().map_err(|()| unknown(d))).collect::<Result<Vec<Dimension>, _>>()?;
            let mut once = dimensions.clone();
            once.sort();
            once.dedup();
            if once.is_empty() || once.len() != dimensions.len() {
                return Err(ViewError::Dimensions(name.to_owned()));
            }
            views.push(View { name: name.to_owned(), dimensions });
        }
        if views.is_empty() { Err(ViewError::None) } else { Ok(Self(views)) }
    }

    pub fn iter(&self) -> std::slice::Iter<'_, View> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: at least one view is declared.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, id: ViewId) -> &View {
        &self.0[id.0]
    }

    /// The view of this name, if it has these dimensions.
    pub fn find(&self, view: &View) -> Option<ViewId> {
        self.0.iter().position(|known| known == view).map(ViewId)
    }

    /// The view with the fewest dimensions that has all of `wanted`, the first declared among equals.
    pub fn smallest_with(&self, wanted: &[Dimension]) -> Option<ViewId> {
        let covers = |view: &View| wanted.iter().all(|d| view.dimensions.contains(d));
        let covering = self.0.iter().enumerate().filter(|(_, view)| covers(view));
        covering.min_by_key(|(_, view)| view.dimensions.len()).map(|(id, _)| ViewId(id))
    }

    pub fn ids(&self) -> impl Iterator<Item = ViewId> + use<> {
        (0..self.0.len()).map(ViewId)
    }
}

/// A view's place among the declared ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ViewId(pub usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_view_that_has_all_dimensions_is_chosen() {
        let views = Views::declare([("by_product", vec!["event_type", "product_id"]), ("by_type", vec!["event_type"])]).expect("valid");
        let chosen = |wanted: &[Dimension]| views.smallest_with(wanted).map(|id| views.get(id).name().to_owned());
        assert_eq!(chosen(&[]).as_deref(), Some("by_type"));
        assert_eq!(chosen(&[Dimension::EventType]).as_deref(), Some("by_type"));
        assert_eq!(chosen(&[Dimension::ProductId]).as_deref(), Some("by_product"));
        assert_eq!(chosen(&[Dimension::UserId]), None);
    }

    #[test]
    fn a_bad_declaration_is_refused_by_name() {
        let check = |name: &'static str, dimensions: Vec<&'static str>, says: &str| {
            let error = Views::declare([(name, dimensions)]).expect_err("refused");
            assert!(error.to_string().contains(says), "{error}");
        };
        check("By", vec!["event_type"], "`By`");
        check("events", vec!["event_type"], "table's name");
        check("x", vec!["colour"], "`colour` is not a dimension");
        check("x", vec![], "at least one");
        check("x", vec!["user_id", "user_id"], "each once");
        assert_eq!(Views::declare([]), Err(ViewError::None));
    }
}
