//! Who may do what over HTTP: keys, their scopes, and how often each may ask.
//!
//! A key is 32 random bytes, and only its SHA-256 is kept: it cannot be guessed, so a slow hash would protect nothing
//! that a fast one does not. Without any key everything is open to this machine, though not to pages of others in its browsers.

mod guard;
mod key;

pub use guard::Access;
pub use key::{Digest, InvalidDigest, Key, Scope, Secret};
