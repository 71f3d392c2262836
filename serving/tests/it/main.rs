//! Serving over both layers' loops, with the log and history in memory, through the HTTP routes.

mod explain;
mod kept;
mod pinned;
mod site;
mod snapshots;
mod status;
