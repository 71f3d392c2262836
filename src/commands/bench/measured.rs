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
        let stat = std::fs::read_to_string("/proc/self/stat").context("reading /proc/self/stat")?;
        // The name, in parentheses, may hold spaces; the fields after it do not.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).context("a field of /proc/self/stat");
        let status = std::fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(Self { cpu_secs: (ticks(11)? + ticks(12)?) / TICKS, peak_mib: peak.context("VmHWM")? / 1024 })
    }

    pub fn since(self, before: Self) -> Self {
        Self { cpu_secs: self.cpu_secs - before.cpu_secs, peak_mib: self.peak_mib }
    }
}
