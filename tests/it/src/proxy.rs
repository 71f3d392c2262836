//! A TCP proxy that can fall silent: connections stay, and nothing comes through any more, as behind a broken network.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Between two looks at whether the silence is over.
const LOOK: Duration = Duration::from_millis(20);

/// A way to a server on this machine. Dropped, it is silent for good.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    silent: Arc<AtomicBool>,
}

impl Proxy {
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let own = listener.local_addr().expect("it listens").port();
        let silent = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&silent);
        thread::spawn(move || {
            for from in listener.incoming().flatten() {
                let Ok(to) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else { continue };
                for (from, to) in [(&from, &to), (&to, &from)] {
                    let (Ok(from), Ok(to), silent) = (from.try_clone(), to.try_clone(), Arc::clone(&flag)) else { continue };
                    thread::spawn(move || carry(from, to, &silent));
                }
            }
        });
        Self { port: own, silent }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What is sent from here on waits until this is over.
    pub fn silence(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.silence(true);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, silent: &AtomicBool) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut bytes) {
        while silent.load(Ordering::Relaxed) {
            thread::sleep(LOOK);
        }
        if read == 0 || to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
