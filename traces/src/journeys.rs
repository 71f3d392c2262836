//! Records on their way through a layer: a span from when the layer has one in hand until what it is for is done.

use crate::join;
use parking_lot::Mutex;
use tidemark_core::offset::{NextOffset, Offset, Partition};
use tracing::{Span, trace_span};

/// Journeys that are followed at a time. More are not: whoever samples fewer requests sees all of those.
const MOST: usize = 1_024;

/// The records that are on their way to one end: counted, published, written.
#[derive(Debug, Default)]
pub struct Journeys(Mutex<Vec<Journey>>);

#[derive(Debug)]
struct Journey {
    partition: Partition,
    offset: Offset,
    /// Ends with the journey.
    _span: Span,
}

impl Journeys {
    /// A record sets out, as part of the trace that its `traceparent` tells; `name` is what is going to be done.
    pub fn set_out(&self, name: &'static str, partition: Partition, offset: Offset, traceparent: &str) {
        let mut journeys = self.0.lock();
        if journeys.len() >= MOST {
            return;
        }
        let span = trace_span!(
            parent: None,
            "record",
            otel.name = name,
            otel.kind = "consumer",
            messaging.system = "kafka",
            messaging.operation.type = "process",
            messaging.destination.partition.id = partition.0,
            messaging.kafka.offset = offset.get(),
        );
        join(&span, traceparent);
        journeys.push(Journey { partition, offset, _span: span });
    }

    /// The records of a partition below `position` have arrived.
    pub fn arrived(&self, partition: Partition, position: NextOffset) {
        self.0.lock().retain(|journey| journey.partition != partition || !position.includes(journey.offset));
    }

    /// The partitions have gone elsewhere, where their records set out again.
    pub fn gone(&self, partitions: &[Partition]) {
        self.0.lock().retain(|journey| !partitions.contains(&journey.partition));
    }
}
