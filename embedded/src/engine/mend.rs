//! What a full disk leaves behind, and ClickHouse does not start with.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Removes statements to delete or alter rows of which nothing has been written. ClickHouse gives such a file its name before it is
/// sure of what is in it, and fails the statement when the disk is full; at the next start the table cannot be loaded. The client
/// got an error, or no answer. Returns what has been removed.
pub(super) fn remove_empty_mutations(data: &Path) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    // DATA/store/THREE-DIGITS/TABLE/mutation_N.txt
    for table in directories(&data.join("store"))?.iter().map(|some| directories(some)).collect::<io::Result<Vec<_>>>()?.concat() {
        for entry in fs::read_dir(table)? {
            let entry = entry?;
            let is_mutation = entry.file_name().to_str().is_some_and(|name| name.starts_with("mutation_") && name.ends_with(".txt"));
            if is_mutation && entry.metadata()?.len() == 0 {
                fs::remove_file(entry.path())?;
                removed.push(entry.path());
            }
        }
    }
    Ok(removed)
}

/// Directories below this one; none if it is not there yet.
fn directories(of: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(of) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    Ok(entries.iter().map(fs::DirEntry::path).filter(|path| path.is_dir()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_empty_is_removed() {
        let data = tempfile::tempdir().expect("a directory");
        assert!(remove_empty_mutations(data.path()).expect("nothing there yet").is_empty());
        let table = data.path().join("store/646/6464e463");
        fs::create_dir_all(table.join("all_1_1_0")).expect("a part");
        for (name, content) in
            [("mutation_4.txt", ""), ("mutation_5.txt", "format version: 1\n"), ("format_version.txt", "1"), ("empty", "")]
        {
            fs::write(table.join(name), content).expect("a file");
        }
        assert_eq!(remove_empty_mutations(data.path()).expect("mended"), [table.join("mutation_4.txt")]);
        let mut left: Vec<_> = fs::read_dir(&table).expect("there").map(|entry| entry.expect("a file").file_name()).collect();
        left.sort();
        assert_eq!(left, ["all_1_1_0", "empty", "format_version.txt", "mutation_5.txt"]);
    }
}
