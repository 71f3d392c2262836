//! How a command ends: what a script learns from the exit code, and a person from the last line. One list for all commands.

use std::fmt;
use std::io::ErrorKind;
use tidemark_client::ClientError;
use tidemark_ingest::{Cause, SendError};
use tidemark_replay::compare::CompareError;
use tidemark_replay::publish::PublishError;
use tidemark_replay::rebuild::RebuildError;
use tidemark_replay::recount::RecountError;

/// What an exit code says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    Done,
    Failed,
    /// As clap has it for what it refuses itself.
    Usage,
    Found,
    Unreached,
    Refused,
    Warned,
}

impl Exit {
    pub const ALL: [Self; 7] = [Self::Done, Self::Failed, Self::Usage, Self::Found, Self::Unreached, Self::Refused, Self::Warned];

    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Found => 3,
            Self::Unreached => 4,
            Self::Refused => 5,
            Self::Warned => 6,
        }
    }

    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done, and all is well",
            Self::Failed => "it could not be done",
            Self::Usage => "the command line or the configuration is wrong; nothing was done",
            Self::Found => "done, and something is wrong: counts differ, events were rejected, status or doctor found a failure",
            Self::Unreached => "a server does not answer, or not in time: later may help",
            Self::Refused => "refused: a key or a confirmation is missing, or what is asked for may not be done as things stand",
            Self::Warned => "doctor found no failure, but something to look at",
        }
    }

    /// For the end of `tidemark --help`.
    pub fn help() -> String {
        let line = |exit: Self| format!("\n  {}  {}", exit.code(), exit.meaning());
        format!("Exit codes:{}", Self::ALL.map(line).concat())
    }

    /// An error that ends a command in this way.
    pub fn because(self, reason: impl Into<String>) -> anyhow::Error {
        Ended { exit: self, reason: reason.into() }.into()
    }

    /// How a command ends that has met this error: the outermost cause that says it does.
    pub fn of(error: &anyhow::Error) -> Self {
        error.chain().find_map(Self::of_cause).unwrap_or(Self::Failed)
    }

    fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if let Some(ended) = cause.downcast_ref::<Ended>() {
            return Some(ended.exit);
        }
        // Errors that stand for the one inside them are not in the chain twice.
        match cause.downcast_ref::<RebuildError>() {
            Some(RebuildError::History(error) | RebuildError::Compare(CompareError::History(error))) => return Some(of_history(error)),
            Some(RebuildError::Log(error)) => return Some(of_log(error)),
            Some(RebuildError::Another { .. } | RebuildError::Branch(_) | RebuildError::Dropped(_)) => return Some(Self::Refused),
            Some(RebuildError::Compare(_)) | None => {}
        }
        match cause.downcast_ref::<RecountError>() {
            Some(RecountError::Client(error)) => return Some(of_api(error)),
            Some(RecountError::Log(error)) => return Some(of_log(error)),
            _ => {}
        }
        if let Some(PublishError::Kafka(error)) = cause.downcast_ref() {
            return Some(of_log(error));
        }
        if let Some(SendError::Stopped { cause, .. }) = cause.downcast_ref() {
            return match cause {
                Cause::GaveUp { .. } => Some(Self::Unreached),
                Cause::Refused { .. } => Some(Self::Refused),
                Cause::Read(_) | Cause::BadAnswer { .. } | Cause::Internal(_) => None,
            };
        }
        if let Some(tidemark_embedded::Error::DirectoryLocked { .. } | tidemark_embedded::Error::StaleChild { .. }) = cause.downcast_ref() {
            return Some(Self::Refused);
        }
        cause
            .downcast_ref()
            .map(of_api)
            .or_else(|| cause.downcast_ref().map(of_log))
            .or_else(|| cause.downcast_ref().map(of_history))
            .or_else(|| cause.downcast_ref().map(of_snapshots))
    }
}

fn of_api(error: &ClientError) -> Exit {
    match error {
        ClientError::Unavailable { .. } => Exit::Unreached,
        // A server that cannot answer now, or not in time, says so by these.
        ClientError::Refused { status, .. } if status.is_server_error() => Exit::Unreached,
        // It did not understand what was asked.
        ClientError::Refused { status, .. } if matches!(status.as_u16(), 400 | 422) => Exit::Usage,
        ClientError::Refused { .. } => Exit::Refused,
        ClientError::Key | ClientError::Authorities(_) => Exit::Usage,
        ClientError::Nonsense { .. } => Exit::Failed,
    }
}

fn of_log(error: &tidemark_topic::Error) -> Exit {
    use tidemark_topic::Error as E;
    match error {
        E::Unavailable { .. } => Exit::Unreached,
        E::Fenced { .. } | E::Forbidden { .. } | E::Refused { .. } | E::OtherTopic(_) => Exit::Refused,
        E::OutOfRange { .. } | E::NoSuchTopic { .. } => Exit::Failed,
    }
}

fn of_history(error: &tidemark_history::Error) -> Exit {
    use tidemark_history::Error as E;
    match error {
        E::Unavailable { .. } => Exit::Unreached,
        E::Refused { .. } | E::OtherRules(_) => Exit::Refused,
        E::TooLarge | E::TooDear { .. } | E::Busy | E::Unfinished { .. } | E::Damaged { .. } | E::Nonsense(_) => Exit::Failed,
    }
}

fn of_snapshots(error: &tidemark_snapshot::Error) -> Exit {
    use tidemark_snapshot::Error as E;
    match error {
        E::Unavailable { .. } => Exit::Unreached,
        E::Refused { .. } => Exit::Refused,
        E::Malformed { .. } => Exit::Failed,
    }
}

/// A reason that knows how the command ends.
#[derive(Debug)]
struct Ended {
    exit: Exit,
    reason: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Ended {}

/// An error in one sentence: each cause behind what it has caused, but none twice, for some errors name their cause themselves.
pub fn sentence(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if said.is_empty() {
            said = cause;
        } else if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

/// True if nobody reads the output any more: that ends a command, and is no failure of it.
pub fn is_unread(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn every_code_is_there_once_and_the_help_has_them_all() {
        let codes = Exit::ALL.map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6]);
        assert!(codes.iter().all(|code| Exit::help().contains(&format!("\n  {code}  "))));
    }

    #[test]
    fn an_error_ends_a_command_as_what_has_caused_it_does() {
        let lost = || tidemark_history::Error::Unavailable { url: "http://c".into(), reason: "gone".into() };
        let answered = |status: u16| ClientError::Refused {
            url: "http://t".into(),
            status: status.try_into().expect("a status"),
            detail: String::new(),
            retry_after: None,
        };
        let away = tidemark_topic::Error::Unavailable { broker: "b".into(), reason: "gone".into() };
        let rows: Vec<(anyhow::Error, Exit)> = vec![
            (anyhow::anyhow!("no"), Exit::Failed),
            (Exit::Found.because("2 cells differ"), Exit::Found),
            (Err::<(), _>(Exit::Refused.because("no")).context("doing it").expect_err("an error"), Exit::Refused),
            (lost().into(), Exit::Unreached),
            (RebuildError::History(lost()).into(), Exit::Unreached),
            (RebuildError::Compare(CompareError::History(lost())).into(), Exit::Unreached),
            (RecountError::Log(away.clone()).into(), Exit::Unreached),
            (RecountError::History(lost()).into(), Exit::Unreached),
            (PublishError::Kafka(away.clone()).into(), Exit::Unreached),
            (Err::<(), _>(away).context("looking").expect_err("an error"), Exit::Unreached),
            (answered(503).into(), Exit::Unreached),
            (answered(401).into(), Exit::Refused),
            (answered(400).into(), Exit::Usage),
            (tidemark_history::Error::OtherRules("others".into()).into(), Exit::Refused),
            (tidemark_snapshot::Error::Refused { at: "r".into(), reason: "policy".into() }.into(), Exit::Refused),
        ];
        for (error, exit) in rows {
            assert_eq!(Exit::of(&error), exit, "{error:#}");
        }
    }

    #[test]
    fn a_cause_is_said_once() {
        let lost = tidemark_history::Error::Unavailable { url: "http://c".into(), reason: "gone".into() };
        let error = Err::<(), _>(RecountError::History(lost)).context("recounting").expect_err("an error");
        assert_eq!(sentence(&error), "recounting: what the topic no longer has cannot be had: clickhouse at http://c did not answer: gone");
        let unread = std::io::Error::from(ErrorKind::BrokenPipe);
        assert!(is_unread(&anyhow::Error::from(unread).context("printing")) && !is_unread(&error));
    }
}
