//! What the view store held, and since when: what a GET's age is judged by.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;

use super::load::Load;
use crate::servers::Postgres;

const EVERY: &str = "0.1";

/// By model: (since the run began, position), in order.
pub type Timeline = BTreeMap<String, Vec<(Duration, u64)>>;

/// Watches the checkpoints of the live generations until it is stopped.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    session: Arc<Mutex<Option<Child>>>,
    thread: Option<JoinHandle<Timeline>>,
}

impl Sampler {
    pub fn start(postgres: &Postgres, load: &Arc<Load>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let session: Arc<Mutex<Option<Child>>> = Arc::default();
        let mut psql = postgres.psql("views_db");
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let (load, stopped, held) = (load.clone(), stop.clone(), session.clone());
        let thread = thread::spawn(move || {
            let mut timeline = Timeline::new();
            while !stopped.load(Ordering::Relaxed) {
                // It ends with every Postgres it is connected to.
                if let Ok(child) = psql.spawn() {
                    let lines = begin(child, &held);
                    for line in lines.into_iter().flatten() {
                        note(&mut timeline, &line, load.history.now());
                    }
                    end(&held);
                }
                thread::sleep(Duration::from_millis(100));
            }
            timeline
        });
        Self { stop, session, thread: Some(thread) }
    }

    pub fn finish(mut self) -> Result<Timeline> {
        self.stop.store(true, Ordering::Relaxed);
        end(&self.session);
        let thread = self.thread.take().ok_or_else(|| anyhow::anyhow!("no sampler"))?;
        thread.join().map_err(|_| anyhow::anyhow!("the sampler panicked"))
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        end(&self.session);
    }
}

fn begin(mut child: Child, held: &Mutex<Option<Child>>) -> Option<impl Iterator<Item = String> + use<>> {
    let mut stdin = child.stdin.take()?;
    let stdout = child.stdout.take()?;
    *held.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
    let asked = writeln!(stdin, "SELECT model, position FROM view_heads WHERE live \\watch {EVERY}");
    asked.ok()?;
    // psql ends with its input.
    Some(BufReader::new(stdout).lines().map_while(move |line| {
        let _open = &stdin;
        line.ok()
    }))
}

fn end(held: &Mutex<Option<Child>>) {
    if let Some(mut child) = held.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn note(timeline: &mut Timeline, line: &str, at: Duration) {
    let Some((model, position)) = line.split_once('|') else { return };
    let Ok(position) = position.trim().parse::<u64>() else { return };
    let samples = timeline.entry(model.to_owned()).or_default();
    if samples.last().is_none_or(|(_, last)| *last != position) {
        samples.push((at, position));
    }
}

/// The position that a model is known to have had at an instant.
pub fn held_at(timeline: &Timeline, model: &str, at: Duration) -> u64 {
    let samples = timeline.get(model).map(Vec::as_slice).unwrap_or_default();
    let before = samples.partition_point(|(when, _)| *when <= at);
    before.checked_sub(1).map_or(0, |last| samples[last].1)
}
