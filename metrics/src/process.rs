//! The process itself, under the names that every Prometheus client uses. From /proc, so on Linux only.

use crate::{Collector, DescriptorEncoder, Page};
use prometheus_client::metrics::MetricType;
use std::fmt;
use std::fs;

/// Clock ticks a second in /proc: fixed by the kernel's interface to programs.
const TICKS: f64 = 100.0;
const PAGE_BYTES: u64 = 4096;

/// CPU, memory and open files.
#[derive(Debug)]
pub struct Process;

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        if let Some(secs) = cpu_secs() {
            let help = "Time of processors, user and system";
            let mut cpu = page.0.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
            cpu.encode_counter::<crate::Label, f64, f64>(&secs, None)?;
        }
        if let Some(bytes) = resident_bytes() {
            page.gauge(("process_resident_memory_bytes", "Memory that is in RAM"), bytes)?;
        }
        if let Some(files) = fs::read_dir("/proc/self/fd").ok().and_then(|files| i64::try_from(files.count()).ok()) {
            page.gauge(("process_open_fds", "Open files and sockets"), files)?;
        }
        Ok(())
    }
}

fn cpu_secs() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in parentheses, may hold spaces; of the fields after it the 12th and the 13th are user and system time.
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11).map(|field| field.parse::<f64>().ok());
    Some((fields.next()?? + fields.next()??) / TICKS)
}

fn resident_bytes() -> Option<i64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    i64::try_from(pages * PAGE_BYTES).ok()
}
