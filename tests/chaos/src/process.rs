//! What can be done to any process: its clock and its file descriptors.

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use tidemark_tests::chance::Chance;

/// Compiled once, see `clock.c`.
static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let library = std::env::temp_dir().join(format!("tidemark-clock-{}.so", std::process::id()));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/clock.c");
    let compiled = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    assert!(compiled.is_ok_and(|ended| ended.success()), "cc does not compile {source}");
    library
});
const HOUR_S: &str = "3600";
const MINUS_HOUR_S: &str = "-3600";

/// The environment of a process whose clock is an hour ahead, or behind.
pub fn shifted_clock(chance: &mut Chance) -> Vec<(String, String)> {
    let offset = *chance.pick(&[HOUR_S, MINUS_HOUR_S]);
    let variables = [("LD_PRELOAD", LIBRARY.display().to_string()), ("TIDEMARK_CLOCK_OFFSET_S", offset.to_owned())];
    variables.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

/// The process can open nothing more, until [`give_descriptors_back`].
pub fn use_up_descriptors(pid: u32) -> DescriptorLimit {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    DescriptorLimit { pid, before: limit_descriptors(pid, Some(u64::try_from(open).expect("a number of files"))) }
}

/// What a process could open before.
#[derive(Clone, Copy, Debug)]
pub struct DescriptorLimit {
    pid: u32,
    before: Option<u64>,
}

pub fn give_descriptors_back(limit: DescriptorLimit) {
    limit_descriptors(limit.pid, limit.before);
}

/// Gives the limit that the process had.
fn limit_descriptors(pid: u32, limit: Option<u64>) -> Option<u64> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id is a positive i32");
    let before = prlimit(Some(pid), Resource::Nofile, Rlimit { current: limit, maximum: hard_limit(pid) });
    before.expect("the process runs").current
}

fn hard_limit(pid: Pid) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero())).expect("the process runs");
    let line = text.lines().find(|line| line.starts_with("Max open files")).expect("Linux says so");
    line.split_whitespace().nth(4).and_then(|hard| hard.parse().ok())
}
