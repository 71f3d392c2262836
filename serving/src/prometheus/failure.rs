//! Why there is no answer.

use crate::engine::AnswerError;

/// By the kinds that Prometheus's clients know.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// The request is not one of Prometheus's.
    #[error("{0}")]
    BadData(String),
    /// It is, and what it asks for is not given here, or does not make sense.
    #[error("{0}")]
    Execution(String),
    /// The position that it wants has not been counted in time.
    #[error("{0}")]
    Timeout(String),
    /// Nothing can be answered now.
    #[error("{0}")]
    Unavailable(String),
}

impl Failure {
    /// As `errorType` has it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BadData(_) => "bad_data",
            Self::Execution(_) => "execution",
            Self::Timeout(_) => "timeout",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

impl From<AnswerError> for Failure {
    fn from(error: AnswerError) -> Self {
        let detail = error.to_string();
        match error {
            AnswerError::TimedOut { .. } => Self::Timeout(detail),
            AnswerError::Starting(_) | AnswerError::Busy | AnswerError::Damaged(_) => Self::Unavailable(detail),
            AnswerError::History(_) => {
                tracing::warn!("{detail}");
                Self::Unavailable("history does not answer now, and this question needs it; try again shortly".into())
            }
            AnswerError::NoSuchPartition(_) | AnswerError::BeyondTheEnd { .. } => Self::BadData(detail),
            AnswerError::TooManyRows(_)
            | AnswerError::TooLarge
            | AnswerError::TooDear(_)
            | AnswerError::Buckets(_)
            | AnswerError::TooManyEpochs
            | AnswerError::DoesNotAddUp { .. } => Self::Execution(detail),
        }
    }
}

/// A request that cannot be understood.
pub fn bad<T>(detail: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::BadData(detail.into()))
}

/// A request that is understood and not answered.
pub fn refused<T>(detail: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Execution(detail.into()))
}
