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
                for (from, to) in [(&from, &to), (&to, &from)] {
                    let (Ok(from), Ok(to), shared) = (from.try_clone(), to.try_clone(), Arc::clone(&kept)) else { continue };
                    thread::spawn(move || carry(from, to, &shared));
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

fn carry(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut bytes = vec![0; 64 << 10];
    let mut carried = 0;
    while let Ok(read) = from.read(&mut bytes) {
        while shared.weather() == Weather::Silent {
            thread::sleep(POLL_INTERVAL);
        }
        let mut allowed = read;
        match shared.weather() {
            Weather::Slow(delay) => thread::sleep(delay),
            Weather::Cutting(limit) => allowed = read.min(limit.saturating_sub(carried)),
            Weather::Clear | Weather::Silent | Weather::Closed => {}
        }
        carried += allowed;
        if read == 0 || to.write_all(&bytes[..allowed]).is_err() || allowed < read {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
