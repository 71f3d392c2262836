//! Figures that a run measures, as lines that `tests/accept-main.sh` collects.

/// Prints `figure | NAME | VALUE`.
pub fn figure(name: &str, value: impl std::fmt::Display) {
    println!("figure | {name} | {value}");
}
