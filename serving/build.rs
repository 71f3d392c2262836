//! The dashboard is embedded as `scripts/dashboard.sh` has built it, from `web/`. Without it there is no server.

use std::path::Path;

const FILES: [&str; 4] = ["index.html", "dashboard.js", "dashboard.css", "icon.svg"];

fn main() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../web/dist");
    println!("cargo::rerun-if-changed={}", dist.display());
    let is_there = |name: &&str| dist.join(name).is_file() && dist.join(format!("{name}.gz")).is_file();
    if !FILES.iter().all(is_there) {
        println!("cargo::error=the dashboard, which this crate embeds, is not built: run `make dashboard`, then build again");
    }
}
