//! What may run at all: one statement, no way out to files or the network, and only reads where only reads were promised.
//!
//! `readonly` alone stops neither `INTO OUTFILE` nor `file()` nor `url()`. The engine's own parser says what a text would do,
//! so nothing here reads SQL beyond a first word. Source functions and foreign table engines are refused by the engine
//! itself, for its user holds no grant for them (see `config.rs`); what slips past both meets the kernel (`ffi/sandbox.rs`).

use super::exception::{Exception, code};
use crate::ffi::chdb::Analysis;

const READS: u32 = 0;
const CHANGES_A_DATABASE: u32 = 1;
const CHANGES_GLOBAL_STATE: u32 = 2;
const CONTROL: u32 = 3;

/// Control statements that a store needs, by their first word. A SELECT is of this class when it writes a file, an INSERT
/// when it switches `async_insert` back on; SET and USE would end with their request.
const CONTROL_ALLOWED: [&str; 6] = ["ALTER", "BACKUP", "DETACH", "KILL", "RESTORE", "SYSTEM"];

/// Lets `sql` through, or says why not. `only_reads` holds for GET and for `readonly`.
pub(crate) fn admit(sql: &str, analysis: Analysis, only_reads: bool) -> Result<(), Exception> {
    let (statements, class) = (analysis.statements, analysis.class);
    // A text that does not parse goes on to the engine, which runs nothing and says where the mistake is.
    if statements == 0 {
        return Ok(());
    }
    if statements > 1 {
        return Err(Exception::new(
            code::QUERY_IS_PROHIBITED,
            format!("{statements} statements in one request; send them one by one (QUERY_IS_PROHIBITED)"),
        ));
    }
    if only_reads && class != READS {
        return Err(Exception::new(
            code::READONLY,
            "only reads are allowed here; send changes with POST, with the password of this start (`clickhouse` in tidemark.json of the data directory), and without the setting readonly (READONLY)",
        ));
    }
    match class {
        READS | CHANGES_A_DATABASE => Ok(()),
        CONTROL if CONTROL_ALLOWED.iter().any(|word| first_word(sql).eq_ignore_ascii_case(word)) => Ok(()),
        CONTROL => Err(Exception::new(
            code::READONLY,
            "this engine runs no session statements and writes no files by itself; pass settings in the URL and read \
             results over HTTP (READONLY)",
        )),
        CHANGES_GLOBAL_STATE => Err(Exception::new(
            code::READONLY,
            "this engine changes databases only, neither users, functions, collections nor system tables (READONLY)",
        )),
        _ => Err(Exception::new(
            code::QUERY_IS_PROHIBITED,
            "the engine cannot tell what this statement would do, so it does not run (QUERY_IS_PROHIBITED)",
        )),
    }
}

/// The first word of a statement, behind blanks and comments.
fn first_word(sql: &str) -> &str {
    let mut rest = sql.trim_start();
    loop {
        let after = if let Some(line) = rest.strip_prefix("--").or_else(|| rest.strip_prefix('#')) {
            line.split_once('\n').map_or("", |(_, after)| after)
        } else if let Some(block) = rest.strip_prefix("/*") {
            block.split_once("*/").map_or("", |(_, after)| after)
        } else {
            let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            return &rest[..end];
        };
        rest = after.trim_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_is_found_behind_comments() {
        #[track_caller]
        fn check(sql: &str, word: &str) {
            assert_eq!(first_word(sql), word, "{sql}");
        }
        check("SELECT 1", "SELECT");
        check("  -- SYSTEM\n/* KILL */ alter TABLE t", "alter");
        check("-- only a comment", "");
        check("/* never closed SYSTEM", "");
        check("", "");
    }
}
