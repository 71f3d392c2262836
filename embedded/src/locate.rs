//! Where the engines are: the directory that `scripts/setup.sh` filled.

use std::env;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// The engines on this machine, found and complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engines {
    /// Kafka's jars.
    pub kafka_lib: PathBuf,
    /// The ClickHouse engine.
    pub libchdb: PathBuf,
    /// The `java` to run Kafka with.
    pub java: PathBuf,
}

impl Engines {
    /// Looks at `TIDEMARK_ENGINES`, else for `engines/` in the directories above the program and above the working
    /// directory, else at `~/.local/share/tidemark/engines`. A set variable is the only place looked at.
    ///
    /// # Errors
    /// [`Error::EnginesMissing`] or [`Error::JavaMissing`].
    pub fn locate() -> Result<Self, Error> {
        let places = match env::var_os("TIDEMARK_ENGINES") {
            Some(place) => vec![PathBuf::from(place)],
            None => places(env::current_exe().ok().as_deref(), env::current_dir().ok().as_deref(), home().as_deref()),
        };
        Self::in_one_of(places, java())
    }

    /// The archive of the classes that Kafka needs; it may be missing.
    pub(crate) fn kafka_classes(&self) -> PathBuf {
        self.kafka_lib.with_file_name("classes.jsa")
    }

    fn in_one_of(places: Vec<PathBuf>, java: Option<PathBuf>) -> Result<Self, Error> {
        let holds = |place: &PathBuf| place.join("chdb/libchdb.so").is_file() || place.join("kafka/lib").is_dir();
        let missing = |what, looked| Err(Error::EnginesMissing { what, looked });
        let Some(place) = places.iter().find(|place| holds(place)) else {
            // Of the many directories above, the ones nearest to the program and to the user are named.
            return missing("the engines directory", named(&places));
        };
        let (kafka_lib, libchdb) = (place.join("kafka/lib"), place.join("chdb/libchdb.so"));
        if !libchdb.is_file() {
            return missing("chdb/libchdb.so (the ClickHouse engine)", vec![place.clone()]);
        }
        if !has_kafka(&kafka_lib) {
            return missing("kafka/lib/kafka_*.jar (Apache Kafka)", vec![place.clone()]);
        }
        Ok(Self { kafka_lib, libchdb, java: java.ok_or(Error::JavaMissing)? })
    }
}

fn places(program: Option<&Path>, working: Option<&Path>, home: Option<&Path>) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = Vec::new();
    for start in [program.and_then(Path::parent), working].into_iter().flatten() {
        for above in start.ancestors().map(|dir| dir.join("engines")) {
            if !places.contains(&above) {
                places.push(above);
            }
        }
    }
    places.extend(home.map(|home| home.join(".local/share/tidemark/engines")));
    places
}

fn named(places: &[PathBuf]) -> Vec<PathBuf> {
    match places {
        [first, .., last] => vec![first.clone(), last.clone()],
        few => few.to_vec(),
    }
}

fn has_kafka(lib: &Path) -> bool {
    let Ok(entries) = lib.read_dir() else {
        return false;
    };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("kafka_2.13-"))
}

fn home() -> Option<PathBuf> {
    env::var_os("HOME").map(PathBuf::from)
}

fn java() -> Option<PathBuf> {
    let of_home = env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    of_home.into_iter().chain(env::split_paths(&path)).map(|dir| dir.join("java")).find(|java| java.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_way_to_get_it() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("engines");
        let find = |java: Option<&str>| Engines::in_one_of(vec![place.clone()], java.map(PathBuf::from));
        let says = |java| find(java).unwrap_err().to_string();

        assert!(says(Some("/java")).contains("run `make setup`"), "{}", says(Some("/java")));
        std::fs::create_dir_all(place.join("kafka/lib")).unwrap();
        assert!(says(Some("/java")).starts_with("chdb/libchdb.so"), "{}", says(Some("/java")));
        std::fs::create_dir_all(place.join("chdb")).unwrap();
        std::fs::write(place.join("chdb/libchdb.so"), "").unwrap();
        assert!(says(Some("/java")).starts_with("kafka/lib"), "{}", says(Some("/java")));
        std::fs::write(place.join("kafka/lib/kafka_2.13-4.3.1.jar"), "").unwrap();
        assert!(says(None).starts_with("no `java`"), "{}", says(None));
        assert_eq!(find(Some("/java")).unwrap().java, Path::new("/java"));
    }

    #[test]
    fn the_nearest_directory_comes_first() {
        let places = places(Some(Path::new("/a/b/tidemark")), Some(Path::new("/a/c")), Some(Path::new("/h")));
        let want = ["/a/b/engines", "/a/engines", "/engines", "/a/c/engines", "/h/.local/share/tidemark/engines"];
        assert_eq!(places, want.map(PathBuf::from));
    }
}
