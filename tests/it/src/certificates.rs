//! Certificates of the test's own, by `openssl`.

use std::path::Path;
use std::process::Command;

/// Runs `openssl` in a directory.
pub fn openssl(dir: &Path, arguments: &str) {
    let done = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().expect("openssl is there");
    assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Into `dir`: an authority, `ca.crt`, and what it has signed for `localhost` and 127.0.0.1, for server and client:
/// `own.crt` with `own.key`.
pub fn certificates(dir: &Path) {
    let openssl = |arguments: &str| openssl(dir, arguments);
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=tidemark-tests");
    openssl(
        "req -newkey rsa:2048 -nodes -keyout own.key -out own.csr -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1",
    );
    openssl("x509 -req -in own.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out own.crt -days 2 -copy_extensions copy");
}
