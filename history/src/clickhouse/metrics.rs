//! What history tells Prometheus of its servers, as this process uses them.

use super::ClickHouse;
use super::nodes::Load;
use std::fmt;
use std::sync::Arc;
use tidemark_metrics::{Collector, DescriptorEncoder, Page, Registry};

/// Registers all that history has to say.
pub fn register(history: &Arc<ClickHouse>, registry: &mut Registry) {
    registry.register_collector(Box::new(Servers(Arc::clone(history))));
}

#[derive(Debug)]
struct Servers(Arc<ClickHouse>);

type Figure = fn(&Load) -> usize;

impl Collector for Servers {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (mut page, loads) = (Page(encoder), self.0.nodes.loads());
        let figures: [(&str, &str, Figure); 3] = [
            ("tidemark_history_requests_in_flight", "Requests that the server has not answered yet", |load| load.in_flight),
            ("tidemark_history_requests_waiting", "Requests that wait for one in flight to be answered", |load| load.waiting),
            ("tidemark_history_requests_limit", "Requests in flight at most", |load| load.limit),
        ];
        for (name, help, figure) in figures {
            let values = loads.iter().map(|load| (load.server.as_str(), u64::try_from(figure(load)).unwrap_or(u64::MAX)));
            page.gauges((name, help), "server", values)?;
        }
        Ok(())
    }
}
