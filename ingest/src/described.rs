//! What may be sent, for the OpenAPI document. Nothing here is ever made: bodies are read as text, item by item.

#![expect(dead_code, reason = "described, never made")]

use utoipa::openapi::KnownFormat;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, Type};
use utoipa::{IntoParams, ToSchema};

/// An event. Other members are ignored.
#[derive(ToSchema)]
pub struct Event {
    /// What happened; at most 128 bytes.
    #[schema(min_length = 1, max_length = 128, example = "Order Completed")]
    event_type: String,
    /// When it happened: RFC 3339, or milliseconds since 1970. From 2000 on, and no more than a day ahead of now.
    #[schema(schema_with = timestamp)]
    timestamp: (),
    /// By this a repeated event is known and counted once; at most 256 bytes.
    #[schema(max_length = 256, nullable, example = "order-1")]
    event_id: Option<String>,
    /// At most 256 bytes.
    #[schema(max_length = 256, nullable, example = "p-1")]
    product_id: Option<String>,
    /// Events of a user keep their order; at most 256 bytes.
    #[schema(max_length = 256, nullable, example = "user-1")]
    user_id: Option<String>,
    /// Within ±10^14; four decimals are kept.
    #[schema(example = 19.99)]
    order_amount: Option<f64>,
    /// Kept, and never counted by.
    properties: Option<serde_json::Map<String, serde_json::Value>>,
}

fn timestamp() -> Schema {
    let text = ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    let example = serde_json::json!("2013-01-01T10:15:00Z");
    OneOfBuilder::new().item(text).item(ObjectBuilder::new().schema_type(Type::Integer)).examples([example]).into()
}

/// One event, or an array of them.
pub struct Events;

impl utoipa::PartialSchema for Events {
    fn schema() -> utoipa::openapi::RefOr<Schema> {
        let event = || utoipa::openapi::Ref::from_schema_name("Event");
        let many = utoipa::openapi::ArrayBuilder::new().items(event()).max_items(Some(crate::MAX_ITEMS));
        OneOfBuilder::new().item(event()).item(many).into()
    }
}

impl ToSchema for Events {}

/// A CloudEvents event in JSON.
#[derive(ToSchema)]
pub struct CloudEvent {
    #[schema(example = "1.0")]
    specversion: String,
    /// With `source`, the event's id.
    #[schema(min_length = 1, example = "1")]
    id: String,
    #[schema(min_length = 1, example = "/shop")]
    source: String,
    /// The event's type.
    #[schema(min_length = 1, example = "com.example.order")]
    r#type: String,
    /// The event's timestamp.
    #[schema(format = DateTime, example = "2013-01-01T10:15:00Z")]
    time: String,
    data: Option<CloudData>,
}

/// What else there is to count. Without `properties`, the other members are those.
#[derive(ToSchema)]
pub struct CloudData {
    #[schema(max_length = 256, nullable, example = "p-1")]
    product_id: Option<String>,
    #[schema(max_length = 256, nullable, example = "user-1")]
    user_id: Option<String>,
    #[schema(example = 19.99)]
    order_amount: Option<f64>,
    properties: Option<serde_json::Map<String, serde_json::Value>>,
}

/// A call of Segment's `track`.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Call {
    /// `track`; other calls are rejected.
    #[schema(example = "track")]
    r#type: Option<String>,
    /// The event's type.
    #[schema(min_length = 1, max_length = 128, example = "Order Completed")]
    event: String,
    /// The event's id.
    #[schema(max_length = 256, nullable, example = "message-1")]
    message_id: Option<String>,
    #[schema(max_length = 256, nullable, example = "user-1")]
    user_id: Option<String>,
    #[schema(max_length = 256, nullable, example = "visitor-1")]
    anonymous_id: Option<String>,
    #[schema(format = DateTime, example = "2013-01-01T10:15:00Z")]
    timestamp: String,
    /// Of these, `product_id` and `revenue`, else `value`, are counted by.
    properties: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Calls of Segment's.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Calls {
    #[schema(max_items = 100_000)]
    batch: Vec<Call>,
    /// The time of calls that have none.
    #[schema(format = DateTime, nullable, example = "2013-01-01T10:15:00Z")]
    sent_at: Option<String>,
}

/// A CloudEvents event's attributes, in binary mode.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct Attributes {
    #[param(rename = "ce-specversion", example = "1.0")]
    specversion: Option<String>,
    #[param(rename = "ce-id", example = "3")]
    id: Option<String>,
    #[param(rename = "ce-source", example = "/shop")]
    source: Option<String>,
    #[param(rename = "ce-type", example = "com.example.order")]
    r#type: Option<String>,
    #[param(rename = "ce-time", example = "2013-01-01T10:15:00Z")]
    time: Option<String>,
}
