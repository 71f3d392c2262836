//! Asks serving nodes all the time: questions of any kind, from views and from raw events, and permalinks of earlier answers.

use crate::events::USERS;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};
use tidemark_tests::chance::Chance;
use tidemark_tests::client::{Client, Reply};
use tidemark_tests::question::{Answer, Question};

/// Between two questions of one asker.
const PAUSE: Duration = Duration::from_millis(15);
/// Permalinks that are asked again.
const LINKS: usize = 40;
const USER_NAMES: [&str; USERS] = ["u0", "u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8", "u9", "u10", "u11"];

/// An answer, and when it came.
#[derive(Debug)]
pub struct Taken {
    pub question: Question,
    pub answer: Answer,
    pub at: Duration,
}

#[derive(Debug)]
pub struct Asker {
    began: Instant,
    pub stop: AtomicBool,
    /// Questions are in flight while it is read; to hold them, it is written.
    in_flight: RwLock<()>,
    /// Whether raw events are not to be asked for: rows of an open epoch have been changed.
    pub without_raw: AtomicBool,
    /// Guards the answers that have not been judged.
    taken: Mutex<Vec<Taken>>,
    /// Guards permalinks and what they gave.
    links: Mutex<Vec<(String, String)>>,
    pub refused: AtomicUsize,
    pub repeated: AtomicUsize,
}

impl Asker {
    pub fn new(began: Instant) -> Self {
        Self {
            began,
            stop: AtomicBool::new(false),
            in_flight: RwLock::new(()),
            without_raw: AtomicBool::new(false),
            taken: Mutex::new(Vec::new()),
            links: Mutex::new(Vec::new()),
            refused: AtomicUsize::new(0),
            repeated: AtomicUsize::new(0),
        }
    }

    /// No question is asked until this is dropped, and none is in flight.
    pub fn hold(&self) -> RwLockWriteGuard<'_, ()> {
        self.in_flight.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has been answered since it was last asked for.
    pub fn take(&self) -> Vec<Taken> {
        std::mem::take(&mut *self.taken())
    }

    fn taken(&self) -> MutexGuard<'_, Vec<Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn links(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks any of these nodes until it is stopped.
    pub fn ask(&self, nodes: &[Client], seed: u64) {
        let mut chance = Chance::of(seed);
        while !self.stop.load(Ordering::Relaxed) {
            {
                let _flying = self.in_flight.read().unwrap_or_else(PoisonError::into_inner);
                let node = chance.pick(nodes);
                match chance.below(10) {
                    0 if !self.without_raw.load(Ordering::Relaxed) => self.put(node, &raw(&mut chance), &mut chance),
                    1 => self.follow_a_link(node, &mut chance),
                    _ => self.put(node, &Question::any(&mut chance), &mut chance),
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn put(&self, node: &Client, question: &Question, chance: &mut Chance) {
        let path = question.path(None);
        let Some(reply) = self.get(node, &path) else { return };
        let answer = Answer::read(&reply.json());
        if chance.once_in(20) {
            let link = reply.link.clone().unwrap_or_else(|| panic!("an answer has no permalink: {path}"));
            let mut links = self.links();
            if links.len() == LINKS {
                links.swap_remove(chance.below(LINKS));
            }
            links.push((link, reply.json()["rows"].to_string()));
        }
        self.taken().push(Taken { question: question.clone(), answer, at: self.began.elapsed() });
    }

    /// A permalink gives the same rows, whatever has happened.
    fn follow_a_link(&self, node: &Client, chance: &mut Chance) {
        let Some((link, rows)) = Some(self.links()).filter(|links| !links.is_empty()).map(|links| chance.pick(&links).clone()) else {
            return;
        };
        // From raw events where no view covers it.
        if self.without_raw.load(Ordering::Relaxed) && link.contains("user_id") {
            return;
        }
        let Some(reply) = self.get(node, &link) else { return };
        assert_eq!(reply.json()["rows"].to_string(), rows, "at {:?}, another answer of the permalink {link}", self.began.elapsed());
        self.repeated.fetch_add(1, Ordering::Relaxed);
    }

    /// An answer, unless there is none now: then nothing came at all, or a problem document that says when to ask again.
    fn get(&self, node: &Client, path: &str) -> Option<Reply> {
        let reply = node.try_get(path).ok().or_else(|| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            None
        })?;
        if reply.status == 200 {
            return Some(reply);
        }
        let is_refusal = matches!(reply.status, 429 | 503 | 504) && reply.content_type == "application/problem+json";
        assert!(is_refusal && reply.retry_after.is_some(), "at {:?}: GET {path}: {} {}", self.began.elapsed(), reply.status, reply.text());
        self.refused.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// A question that no view covers.
pub fn raw(chance: &mut Chance) -> Question {
    let question = match chance.below(3) {
        0 => Question::by("total", &["user_id"]),
        1 => Question::by("1d", &["event_type"]),
        _ => Question::by("1w", &[]),
    };
    Question { filters: vec![("user_id", *chance.pick(&USER_NAMES))], ..question }
}
