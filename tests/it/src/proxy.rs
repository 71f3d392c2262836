//! A TCP proxy that breaks as networks do: it can swallow bytes, delay them, cut connections in the middle, and refuse new ones.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How often a silent connection checks whether the silence is over.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What happens to bytes on their way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Weather {
    #[default]
    Clear,
    /// A black hole: connections stay, and nothing arrives until this is over.
    Silent,
    /// Everything arrives later by this much.
    Slow(Duration),
    /// A connection is reset after so many bytes in one direction.
    Cutting(usize),
    /// Connections are closed, and so is each new one.
    Closed,
    /// Of a way to Kafka: requests of this kind do not arrive, all else does.
    Without(ApiKey),
}

/// A kind of request, by Kafka's number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApiKey(pub i16);

impl ApiKey {
    pub const LIST_OFFSETS: Self = Self(2);
    pub const METADATA: Self = Self(3);
}

/// A way to a server on this machine. Dropped, it is silent permanently.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Guards what happens to the next bytes.
    weather: Mutex<Weather>,
    /// Guards both ends of all connections, to close them.
    connections: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    pub fn to(target: u16) -> Self {
        Self::with(target, || None)
    }

    /// One that knows Kafka's requests.
    pub fn to_kafka(target: u16) -> Self {
        Self::with(target, || Some(Requests::default()))
    }

    fn with(target: u16, requests: fn() -> Option<Requests>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let own = listener.local_addr().expect("it listens").port();
        let shared = Arc::new(Shared::default());
        let kept = Arc::clone(&shared);
        thread::spawn(move || {
            for from in listener.incoming().flatten() {
                if kept.weather() == Weather::Closed {
                    continue;
                }
                let Ok(to) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else { continue };
                kept.remember(&from, &to);
                for (from, to, requests) in [(&from, &to, requests()), (&to, &from, None)] {
                    let (Ok(from), Ok(to), shared) = (from.try_clone(), to.try_clone(), Arc::clone(&kept)) else { continue };
                    thread::spawn(move || carry(from, to, requests, &shared));
                }
            }
        });
        Self { port: own, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, weather: Weather) {
        *self.shared.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
        if weather == Weather::Closed {
            self.close_all();
        }
    }

    /// Bytes that are sent from here on wait until this is over.
    pub fn silence(&self, silent: bool) {
        self.set(if silent { Weather::Silent } else { Weather::Clear });
    }

    /// Closes every connection.
    fn close_all(&self) {
        for connection in self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn weather(&self) -> Weather {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets those that have ended, so that there are as many as are open.
    fn remember(&self, from: &TcpStream, to: &TcpStream) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|connection| connection.peer_addr().is_ok());
        connections.extend([from, to].into_iter().filter_map(|connection| connection.try_clone().ok()));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.silence(true);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, mut requests: Option<Requests>, shared: &Shared) {
    let (mut buffer, mut passed) = (vec![0; 64 << 10], Vec::new());
    let mut carried = 0;
    while let Ok(read) = from.read(&mut buffer) {
        while shared.weather() == Weather::Silent {
            thread::sleep(POLL_INTERVAL);
        }
        let weather = shared.weather();
        let mut bytes = &buffer[..read];
        if let Some(requests) = &mut requests {
            let without = if let Weather::Without(kind) = weather { Some(kind) } else { None };
            passed.clear();
            requests.pass(bytes, without, &mut passed);
            bytes = &passed;
        }
        let mut allowed = bytes.len();
        match weather {
            Weather::Slow(delay) => thread::sleep(delay),
            Weather::Cutting(limit) => allowed = allowed.min(limit.saturating_sub(carried)),
            Weather::Clear | Weather::Silent | Weather::Closed | Weather::Without(_) => {}
        }
        carried += allowed;
        if read == 0 || to.write_all(&bytes[..allowed]).is_err() || allowed < bytes.len() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// A client's requests on one connection, told apart: each is a length of four bytes, and begins with its kind.
#[derive(Debug, Default)]
struct Requests {
    /// Of the next request, what has come of its length and kind.
    head: Vec<u8>,
    /// Of the present one, bytes that are still to come.
    rest: usize,
    /// Whether the present one arrives.
    passes: bool,
}

impl Requests {
    const HEAD_BYTES: usize = 6;

    fn pass(&mut self, mut bytes: &[u8], without: Option<ApiKey>, passed: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.rest == 0 {
                let (head, more) = bytes.split_at(bytes.len().min(Self::HEAD_BYTES - self.head.len()));
                self.head.extend(head);
                bytes = more;
                let &[a, b, c, d, e, f] = self.head.as_slice() else { return };
                let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).expect("a length");
                self.rest = (length + 4).saturating_sub(Self::HEAD_BYTES);
                self.passes = without != Some(ApiKey(i16::from_be_bytes([e, f])));
                if self.passes {
                    passed.extend(&self.head);
                }
                self.head.clear();
            } else {
                let (these, more) = bytes.split_at(bytes.len().min(self.rest));
                if self.passes {
                    passed.extend(these);
                }
                (self.rest, bytes) = (self.rest - these.len(), more);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_a_kind_do_not_arrive_however_bytes_are_cut() {
        let request = |kind: u8, body: &[u8]| [&[0, 0, 0, 2 + u8::try_from(body.len()).expect("short"), 0, kind], body].concat();
        let (one, two, three) = (request(1, b"fetch"), request(3, b"metadata"), request(1, b""));
        let all = [&one[..], &two, &three].concat();
        for cut in 1..all.len() {
            let (mut requests, mut passed) = (Requests::default(), Vec::new());
            all.chunks(cut).for_each(|bytes| requests.pass(bytes, Some(ApiKey::METADATA), &mut passed));
            assert_eq!(passed, [&one[..], &three].concat(), "in pieces of {cut}");
        }
    }
}
