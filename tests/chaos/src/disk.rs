//! A small disk of its own for a store, so that it can be full while the others are not.

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A tmpfs. Dropped, it is gone as soon as no process uses it any more.
#[derive(Debug)]
pub struct Disk {
    place: PathBuf,
}

impl Disk {
    /// At this place, which is created. `None` where the user may not mount, which is said.
    pub fn mount(place: &Path, mib: u32) -> Option<Self> {
        fs::create_dir_all(place).expect("creating a directory");
        let size = CString::new(format!("size={mib}m")).expect("no zero in it");
        match mount("tmpfs", place, "tmpfs", MountFlags::empty(), Some(size.as_c_str())) {
            Ok(()) => Some(Self { place: place.to_owned() }),
            Err(error) => {
                println!("no disk of its own at {} ({error}): no disk will be full in this run", place.display());
                None
            }
        }
    }

    /// Until nothing fits any more.
    pub fn fill(&self) {
        let mut ballast = File::create(self.ballast()).expect("creating a file");
        for size in [1 << 20, 4096, 1] {
            let bytes = vec![0; size];
            while ballast.write(&bytes).is_ok_and(|written| written > 0) {}
        }
    }

    pub fn free(&self) {
        fs::remove_file(self.ballast()).expect("removing a file");
    }

    fn ballast(&self) -> PathBuf {
        self.place.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(&self.place, UnmountFlags::DETACH);
    }
}
