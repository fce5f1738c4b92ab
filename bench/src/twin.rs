//! Two processes that write one log: this program starts itself twice, and each twin drives half of the callers.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use adapters::postgres::PostgresServer;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::bench::runtime;
use crate::drive::{Ack, Driven, drive};
use crate::workload::{Creates, postgres_handler};

/// The hidden argument that makes this program a twin.
pub const VERB: &str = "append-twin";
const READY: &str = "ready";

/// What a twin is told on its standard input: the password is nobody else's to see.
#[derive(Serialize, Deserialize)]
struct Orders {
    address: String,
    user: String,
    password: String,
    callers: usize,
    run_time_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Report {
    done: u64,
    elapsed_us: u64,
    latencies_us: Vec<u32>,
    acks: Vec<(Uuid, Uuid)>,
    errors: Vec<String>,
}

/// The twin's side: reads its orders, says that it is ready, waits for the word, drives, reports.
///
/// # Errors
/// When the orders cannot be read or the pipe breaks.
pub fn serve() -> Result<()> {
    let mut lines = std::io::stdin().lines();
    let orders: Orders = serde_json::from_str(&lines.next().context("no orders")??)?;
    let runtime = runtime()?;
    let server = PostgresServer::new(&orders.address, &orders.user, &orders.password)?;
    let driven = runtime.block_on(async {
        let callers = vec![Creates { handler: postgres_handler(&server), keyed: false }; orders.callers];
        println!("{READY}");
        // Blocks this thread only; nothing runs yet.
        lines.next().context("no word to go")??;
        anyhow::Ok(drive(callers, Duration::from_millis(orders.run_time_ms)).await)
    })?;
    let report = Report {
        done: driven.done,
        elapsed_us: driven.elapsed.as_micros() as u64,
        latencies_us: driven.latencies_us,
        acks: driven.acks.iter().map(|ack| (ack.aggregate, ack.marker)).collect(),
        errors: driven.errors,
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// Twins that wait for the word.
pub struct Twins(Vec<(Child, BufReader<std::process::ChildStdout>)>);

impl Twins {
    /// # Errors
    /// When they do not start.
    pub fn start(
        count: usize,
        callers: usize,
        address: &str,
        user: &str,
        password: &str,
        run_time: Duration,
    ) -> Result<Self> {
        let mut twins = Self(Vec::new());
        for _ in 0..count {
            let mut child = Command::new(std::env::current_exe()?)
                .arg(VERB)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("starting a twin")?;
            let mut output = BufReader::new(child.stdout.take().context("no pipe")?);
            let orders = Orders {
                address: address.to_owned(),
                user: user.to_owned(),
                password: password.to_owned(),
                callers: callers / count,
                run_time_ms: run_time.as_millis() as u64,
            };
            let mut input = child.stdin.as_ref().context("no pipe")?;
            writeln!(input, "{}", serde_json::to_string(&orders)?)?;
            let mut line = String::new();
            output.read_line(&mut line)?;
            twins.0.push((child, output));
            ensure!(line.trim() == READY, "a twin said {line:?}");
        }
        Ok(twins)
    }

    /// Lets them go, all at once, and waits for their reports.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn go(mut self) -> Result<Driven> {
        for (child, _) in &self.0 {
            writeln!(child.stdin.as_ref().context("no pipe")?, "go")?;
        }
        let mut all = Driven::default();
        for (child, output) in &mut self.0 {
            let mut line = String::new();
            output.read_line(&mut line)?;
            let report: Report =
                serde_json::from_str(&line).with_context(|| format!("a twin ended ({:?})", child.try_wait()))?;
            all.merge(Driven {
                done: report.done,
                elapsed: Duration::from_micros(report.elapsed_us),
                latencies_us: report.latencies_us,
                acks: report.acks.into_iter().map(|(aggregate, marker)| Ack { aggregate, marker }).collect(),
                errors: report.errors,
            });
            child.wait()?;
        }
        Ok(all)
    }
}

impl Drop for Twins {
    fn drop(&mut self) {
        for (child, _) in &mut self.0 {
            // One that waits for the word ends when its standard input does.
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}
