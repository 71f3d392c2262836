//! Why a record is a dead letter.

/// The rule that a record breaks; [`super::decode`] says which one where there are several. Its `Display` is a fragment
/// that says what the record would have to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Reject {
    #[error("the payload is longer than the limit `max_bytes`")]
    TooLong,
    #[error("the record has no payload; send one JSON object")]
    Empty,
    #[error("the payload is not UTF-8")]
    NotUtf8,
    #[error("the payload is not one JSON document (RFC 8259)")]
    NotJson,
    #[error("the payload nests deeper than the limit `max_depth`")]
    TooDeep,
    #[error("a string has a surrogate escape (\\ud800 to \\udfff) without its other half")]
    LoneSurrogate,
    #[error("the payload is JSON but not an object; send one object a record")]
    NotAnObject,
    /// A field that means something here stands twice; which one counts would be anyone's guess.
    #[error("the field `{0}` stands more than once; send it once")]
    RepeatedField(&'static str),
    #[error("event_type is missing; it must be a string of 1 to 128 bytes")]
    MissingEventType,
    #[error("event_type is not a string of 1 to 128 bytes")]
    BadEventType,
    #[error("timestamp is missing; it must be RFC 3339 or an integer of epoch milliseconds")]
    MissingTimestamp,
    #[error("timestamp is not RFC 3339 nor an integer of epoch milliseconds, in the years 0000 to 9999")]
    BadTimestamp,
    #[error("event_id is not a string of at most 256 bytes, nor null")]
    BadEventId,
    #[error("product_id is not a string of at most 256 bytes, nor null")]
    BadProductId,
    #[error("user_id is not a string of at most 256 bytes, nor null")]
    BadUserId,
    #[error("order_amount is not a number, nor null")]
    BadOrderAmount,
    #[error("order_amount lies beyond ±10^14")]
    OrderAmountOutOfRange,
    #[error("properties is not an object of strings, numbers, booleans and nulls")]
    BadProperties,
    #[error("timestamp lies before the limit `earliest`")]
    TooOld,
    #[error("timestamp lies further ahead of the record's Kafka timestamp than the limit `max_ahead`")]
    TooFarAhead,
}

impl Reject {
    /// A stable code, for the dead-letter table, metrics and ingest's answers. Part of the interface: never renamed.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Empty => "empty",
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::TooDeep => "too_deep",
            Self::LoneSurrogate => "lone_surrogate",
            Self::NotAnObject => "not_an_object",
            Self::RepeatedField(_) => "repeated_field",
            Self::MissingEventType => "missing_event_type",
            Self::BadEventType => "bad_event_type",
            Self::MissingTimestamp => "missing_timestamp",
            Self::BadTimestamp => "bad_timestamp",
            Self::BadEventId => "bad_event_id",
            Self::BadProductId => "bad_product_id",
            Self::BadUserId => "bad_user_id",
            Self::BadOrderAmount => "bad_order_amount",
            Self::OrderAmountOutOfRange => "order_amount_out_of_range",
            Self::BadProperties => "bad_properties",
            Self::TooOld => "too_old",
            Self::TooFarAhead => "too_far_ahead",
        }
    }
}
