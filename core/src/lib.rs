//! What Tidemark counts and how: positions, events, windows, views, cells. Pure: no I/O, no clock, no threads.
//! ARCHITECTURE.md says how the pieces meet.

pub mod amount;
pub mod cell;
pub mod cut;
pub mod epoch;
pub mod event;
pub mod generation;
pub mod invariant;
pub mod judge;
pub mod offset;
pub mod prefetch;
pub mod question;
pub mod skew;
pub mod view;
pub mod watermark;
pub mod window;
