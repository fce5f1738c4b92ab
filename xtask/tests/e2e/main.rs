//! The end-to-end scenarios: whole systems, driven over HTTP. `cargo xtask test` builds `casitas`, names it in
//! `CASITAS_TEST_BINARY` and runs these one at a time, after everything else. One file a theme; by hand:
//!
//! ```sh
//! cargo build -p casitas && cargo test -p xtask --features e2e --test e2e -- --test-threads=1
//! ```

mod chaos;
mod scenarios;
mod stack;
