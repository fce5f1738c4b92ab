//! Exit codes, as interfaces.md lists them.

pub const OK: u8 = 0;
pub const FAILED: u8 = 1;
/// What was said is not understood; clap's own refusals have it, too.
pub const USAGE: u8 = 2;
pub const PARTLY: u8 = 3;
pub const NOT_FOUND: u8 = 4;
pub const CONFLICT: u8 = 5;
pub const CHECK_FAILED: u8 = 6;
pub const DEPENDENCY_DOWN: u8 = 7;
/// Stopped by Ctrl-C, as a shell would say it.
pub const INTERRUPTED: u8 = 130;
