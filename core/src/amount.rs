//! Fixed-point amounts.
