//! What a process has used, as Linux tells it.

use anyhow::{Context as _, Result};

/// Clock ticks a second in /proc: fixed by the kernel's interface to programs.
const TICKS: f64 = 100.0;

/// CPU seconds (user and system) and the largest resident set.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub cpu_secs: f64,
    pub peak_mib: u64,
}

impl Usage {
    pub fn now() -> Result<Self> {
        Self::of(std::process::id())
    }

    pub fn of(pid: u32) -> Result<Self> {
        Ok(Self { cpu_secs: cpu_secs(pid, USER_AND_SYSTEM)?, peak_mib: peak_mib(pid)? })
    }

    /// The same, from here on with a peak of its own: what came before does not count.
    pub fn begin() -> Result<Self> {
        std::fs::write("/proc/self/clear_refs", "5").context("resetting the peak of the resident set")?;
        Self::now()
    }

    pub fn since(self, before: Self) -> Self {
        Self { cpu_secs: self.cpu_secs - before.cpu_secs, peak_mib: self.peak_mib }
    }
}

/// The CPU seconds of this process's children that have ended and been waited for.
pub fn children_cpu_secs() -> Result<f64> {
    cpu_secs(std::process::id(), CHILDRENS_USER_AND_SYSTEM)
}

/// Fields of /proc/PID/stat, counted from the one after the name.
const USER_AND_SYSTEM: [usize; 2] = [11, 12];
const CHILDRENS_USER_AND_SYSTEM: [usize; 2] = [13, 14];

fn cpu_secs(pid: u32, fields: [usize; 2]) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    // The name, in parentheses, may hold spaces; the fields after it do not.
    let all: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| all.get(at).and_then(|text| text.parse::<f64>().ok()).with_context(|| format!("a field of {path}"));
    Ok((ticks(fields[0])? + ticks(fields[1])?) / TICKS)
}

/// The largest resident set that a process has had.
pub fn peak_mib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(peak.context("VmHWM")? / 1024)
}
