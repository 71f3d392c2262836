//! A program started to die with its starter does so when the starter is killed, and not before.

#![expect(clippy::unwrap_used, reason = "a test may panic, and says where")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use support::{eventually, is_alive, kill};
use tidemark_embedded::spawn_dying_with_us;

/// Makes this test program the starter instead of a test.
const STARTER: &str = "TIDEMARK_TEST_STARTER";

/// Not a test: the process that the next one kills. Does nothing unless it was started for that.
#[test]
fn starter() {
    if std::env::var_os(STARTER).is_none() {
        return;
    }
    let start = || {
        let mut command = Command::new("sleep");
        command.arg("600").stdout(Stdio::null());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(spawn_dying_with_us(command)).unwrap().id()
    };
    // The thread that asks for the child ends; the child must not.
    let child = std::thread::spawn(start).join().unwrap();
    println!("child is {child}");
    loop {
        std::thread::park();
    }
}

#[tokio::test]
async fn a_child_outlives_the_thread_that_asked_for_it_and_not_the_process() {
    let mut starter = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "starter", "--nocapture"])
        .env(STARTER, "")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(starter.stdout.take().unwrap()).lines().map_while(Result::ok);
    let child = lines.find_map(|line| line.split_once("child is ")?.1.parse().ok()).expect("the starter came up");
    assert!(is_alive(child), "the child died with a thread");
    kill(starter.id());
    starter.wait().unwrap();
    eventually("the child is gone", || async { !is_alive(child) }).await;
}

#[tokio::test]
async fn what_cannot_be_started_is_an_error() {
    let error = spawn_dying_with_us(Command::new("/no/such/program")).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}
