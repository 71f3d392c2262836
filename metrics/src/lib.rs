//! Metrics: what a part counts and times, and `GET /metrics` that shows it. The one door to `prometheus-client`.
//!
//! A part that counts as it works keeps a [`Counter`] or a [`Histogram`] and registers it; what only stands somewhere (a
//! position, cells held) is looked up by a [`Collector`] when somebody asks. Names begin with `tidemark_`, are in base
//! units (seconds, bytes) and stay: dashboards and alerts in `deploy/` are made of them.

mod http;
mod process;

pub use http::{Answering, routes, timed};
pub use process::Process;
pub use prometheus_client::collector::Collector;
pub use prometheus_client::encoding::DescriptorEncoder;
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::histogram::Histogram;
pub use prometheus_client::registry::{Registry, Unit};

use prometheus_client::encoding::{EncodeGaugeValue, EncodeLabelValue};
use prometheus_client::metrics::MetricType;
use std::fmt;

/// A label with one of a few fixed values.
pub type Label = [(&'static str, &'static str); 1];

/// Upper bounds in seconds, from an answer that is kept to one that nobody waits for. The objectives that alerts watch
/// are among them.
const LATENCIES: [f64; 16] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// Of times, in seconds.
pub fn latencies() -> Histogram {
    Histogram::new(LATENCIES)
}

/// Of sizes that go over many magnitudes: 1, 4, 16 and so on up to a million.
pub fn sizes() -> Histogram {
    Histogram::new((0..11).map(|n| f64::from(1 << (2 * n))))
}

/// What a [`Collector`] writes.
pub struct Page<'e>(pub DescriptorEncoder<'e>);

impl fmt::Debug for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

impl Page<'_> {
    /// What stands somewhere now, by the values of one label.
    pub fn gauges<L: EncodeLabelValue, V: EncodeGaugeValue>(
        &mut self,
        (name, help): (&str, &str),
        label: &str,
        values: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (of, value) in values {
            family.encode_family(&[(label, of)])?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// The same without a label.
    pub fn gauge(&mut self, (name, help): (&str, &str), value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// What only grows, by the values of one label; `_total` is added to the name.
    pub fn counters<L: EncodeLabelValue>(
        &mut self,
        (name, help): (&str, &str),
        label: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (of, value) in values {
            family.encode_family(&[(label, of)])?.encode_counter::<Label, u64, u64>(&value, None)?;
        }
        Ok(())
    }

    /// The same without a label.
    pub fn counter(&mut self, (name, help): (&str, &str), value: u64) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter::<Label, u64, u64>(&value, None)
    }
}
