//! A client of a tidemark's HTTP interface.
//!
//! ```no_run
//! # async fn example() -> Result<(), tidemark_client::ClientError> {
//! use tidemark_client::{Client, Query};
//!
//! let client = Client::new("http://127.0.0.1:8080", None, None)?;
//! let sent = client.send(&[serde_json::json!({"event_type": "purchase", "timestamp": "2026-01-31T10:15:00Z", "event_id": "1"})]).await?;
//!
//! // Read your own write: the answer contains what was sent.
//! let query = Query::new().step("1h").group_by(&["event_type"]).measures(&["count", "sum"]);
//! for row in client.query(&query.clone().at_least(&sent.position)).await?.rows {
//!     println!("{:?} {:?}: {:?}", row.window, row.event_type, row.count);
//! }
//!
//! // And what becomes of it; a stream that breaks is taken up where it was.
//! let mut live = client.live(query.last("3h"));
//! loop {
//!     let rows = live.next().await?;
//!     println!("{} rows at {}", rows.len(), live.position());
//! }
//! # }
//! ```
//!
//! [`Client::get`], [`Client::listen`] and [`Client::post`] are for what has no type here. All I/O is in `client.rs`.

mod answer;
mod client;
mod error;
mod events;
mod live;
mod query;

pub use answer::{Answer, PartitionStatus, Position, Rejected, Row, Sent, Status};
pub use client::{Body, Client};
pub use error::ClientError;
pub use events::{Event, Events};
pub use live::Live;
pub use query::Query;
