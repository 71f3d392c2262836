//! What was done and what was seen: a line for each thing as it happens, and figures at the end.

use crate::fault::Kind;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Report {
    shape: &'static str,
    pub began: Instant,
    /// Guards how long it took after each fault until answers were exact again.
    recoveries: Mutex<BTreeMap<&'static str, (Kind, Vec<Duration>)>>,
}

impl Report {
    pub fn new(shape: &'static str) -> Self {
        Self { shape, began: Instant::now(), recoveries: Mutex::default() }
    }

    pub fn say(&self, what: &str) {
        println!("{:>6.1} s {}: {what}", self.began.elapsed().as_secs_f64(), self.shape);
    }

    pub fn recovered(&self, fault: &'static str, kind: Kind, after: Duration) {
        let mut recoveries = self.recoveries.lock().unwrap_or_else(PoisonError::into_inner);
        recoveries.entry(fault).or_insert((kind, Vec::new())).1.push(after);
    }

    /// The table of faults, and how soon answers were exact again after kills.
    pub fn conclude(&self, figures: &str) {
        let recoveries = self.recoveries.lock().unwrap_or_else(PoisonError::into_inner);
        println!("\n{}: fault | times | exact again after, median and worst, s", self.shape);
        for (fault, (_, took)) in recoveries.iter() {
            let (median, worst) = middle_and_worst(took.clone());
            println!("{}: {fault} | {} | {median:.1}, {worst:.1}", self.shape, took.len());
        }
        let kills =
            recoveries.values().filter(|(kind, _)| *kind == Kind::Kill).flat_map(|(_, took)| took.iter().copied()).collect::<Vec<_>>();
        if !kills.is_empty() {
            let n = kills.len();
            let (median, worst) = middle_and_worst(kills);
            println!("{}: {n} kills: exact again after {median:.1} s (median), {worst:.1} s (worst)", self.shape);
        }
        println!("{}: {figures}", self.shape);
    }
}

fn middle_and_worst(mut took: Vec<Duration>) -> (f64, f64) {
    took.sort();
    (took[took.len() / 2].as_secs_f64(), took[took.len() - 1].as_secs_f64())
}

pub fn list(shapes: &[(&str, Vec<&str>)]) {
    for (shape, faults) in shapes {
        println!("{shape}:");
        faults.iter().for_each(|fault| println!("  {fault}"));
    }
}
