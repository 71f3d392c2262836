//! Why there is no answer.

use hyper::StatusCode;
use std::time::Duration;

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The key cannot be sent.
    #[error("the key cannot be sent: it has characters that no header may have")]
    Key,
    /// The file of authorities cannot be used.
    #[error("{0}")]
    Authorities(String),
    /// There is no answer, or it broke off. What was sent may have been taken all the same.
    #[error("{url} does not answer: {reason}")]
    Unavailable { url: String, reason: String },
    /// The server says no: by a problem document, whose detail says what to do, or by whatever stands before it.
    #[error("{url} refused ({status}): {detail}")]
    Refused { url: String, status: StatusCode, detail: String, retry_after: Option<Duration> },
    /// The answer cannot be understood.
    #[error("{url} answered something that is no answer of tidemark's: {reason}")]
    Nonsense { url: String, reason: String },
}

impl ClientError {
    /// Whether the same request may succeed later.
    pub fn is_passing(&self) -> bool {
        const PASSING: [StatusCode; 5] = [
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::BAD_GATEWAY,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::GATEWAY_TIMEOUT,
        ];
        match self {
            Self::Unavailable { .. } => true,
            Self::Refused { status, .. } => PASSING.contains(status),
            Self::Key | Self::Authorities(_) | Self::Nonsense { .. } => false,
        }
    }
}
