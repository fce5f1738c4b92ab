//! What is counted beside what must be zero.

use std::collections::BTreeMap;
use std::time::Duration;

use super::checker::COMMAND_MAX;
use super::faults::{Findings, Fired};
use super::history::{Command, LOGIN, Outcome, Read, Try, statuses};
use super::logs::Logs;

#[derive(Clone, Debug, Default)]
pub struct Figures(pub Vec<(&'static str, String)>);

impl Figures {
    pub(super) fn say(&mut self, name: &'static str, value: impl Into<String>) {
        self.0.push((name, value.into()));
    }

    /// What the history, the logs and the faults came to.
    pub(super) fn of(commands: &[Command], reads: &[Read], logs: &Logs, findings: &Findings) -> Self {
        let mut figures = Self::default();
        figures.count_commands(commands);
        figures.count_reads(reads);
        let unanswered = commands.iter().flat_map(|command| &command.tries).filter(|one| one.by.is_empty());
        let gets = reads.iter().map(|read| &read.one);
        figures.say("GETs over 2.5 s, by the fault under way", late(gets, &findings.fired));
        figures.say("commands over 2.5 s that no role answered", late(unanswered, &findings.fired));
        let events = logs.iter().map(|(name, events)| format!("{name} {}", events.len()));
        figures.say("events", events.collect::<Vec<_>>().join(", "));
        figures.say("GETs during rolling restarts", findings.drained_reads.to_string());
        figures.say("recovery after a fault", quantiles(findings.fired.iter().map(|fired| fired.recovered).collect()));
        for (fault, why) in &findings.absent {
            figures.say("not tried", format!("{fault}: {why}"));
        }
        for note in &findings.notes {
            figures.say("note", note.clone());
        }
        figures
    }

    fn count_commands(&mut self, commands: &[Command]) {
        let all = || commands.iter().flat_map(|command| &command.tries);
        let acked = commands.iter().filter(|command| command.is_ok()).count();
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for command in commands.iter().filter(|command| command.is_ok()) {
            *kinds.entry(command.intent.what).or_default() += 1;
        }
        self.say("acknowledged by kind", format!("{kinds:?}"));
        let told_again = commands.iter().filter(|command| command.told.len() > 1).count();
        let (logins, issued): (Vec<&Command>, Vec<&Command>) =
            commands.iter().partition(|command| command.intent.what == LOGIN);
        let issued = issued.len();
        self.say("commands", format!("{issued} under as many keys, {acked} acknowledged, {told_again} of them twice"));
        self.say("tries of them and of logins", outcomes(all()));
        self.say("logins", outcomes(logins.into_iter().flat_map(|command| &command.tries)));
        self.say("statuses of commands", format!("{:?}", statuses(all())));
        self.say("commands took", quantiles(all().map(|one| one.took).collect()));
        self.say(
            "commands took that the command-api answered",
            quantiles(all().filter(|one| !one.by.is_empty()).map(|one| one.took).collect()),
        );
    }

    fn count_reads(&mut self, reads: &[Read]) {
        let with_token = reads.iter().filter(|read| read.token.is_some() && read.one.status == 200).count();
        let answered = reads.iter().filter(|read| read.is_answered()).count();
        let by = |name: &str| reads.iter().filter(|read| read.one.by == name && read.one.status == 200).count();
        let (first, second) = (by("query-1"), by("query-2"));
        self.say(
            "GETs",
            format!("{answered} of {} answered ({with_token} with a token; query-1 {first}, query-2 {second})", reads.len()),
        );
        self.say("statuses of GETs", format!("{:?}", statuses(reads.iter().map(|read| &read.one))));
        self.say("GETs took", quantiles(reads.iter().map(|read| read.one.took).collect()));
    }
}

fn outcomes<'a>(tries: impl Iterator<Item = &'a Try>) -> String {
    let (mut ok, mut failed, mut unknown) = (0, 0, 0);
    for one in tries {
        match one.outcome {
            Outcome::Ok => ok += 1,
            Outcome::Failed => failed += 1,
            Outcome::Unknown => unknown += 1,
        }
    }
    format!("{ok} ok, {failed} failed, {unknown} unknown")
}

fn quantiles(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let at = |share: f64| took.get(((took.len() as f64 * share) as usize).min(took.len().saturating_sub(1)));
    let ms = |at: Option<&Duration>| at.map_or(0.0, |took| took.as_secs_f64() * 1e3);
    format!("p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms", ms(at(0.5)), ms(at(0.99)), ms(took.last()))
}

/// Calls that took longer than a command may, by the kind of the fault under way, with the longest of each.
fn late<'a>(tries: impl Iterator<Item = &'a Try>, fired: &[Fired]) -> String {
    let mut kinds: BTreeMap<&str, (usize, Duration)> = BTreeMap::new();
    for one in tries.filter(|one| one.took > COMMAND_MAX) {
        let (count, longest) = kinds.entry(under_way(one, fired)).or_default();
        *count += 1;
        *longest = one.took.max(*longest);
    }
    let told = kinds.iter().map(|(kind, (count, longest))| format!("{kind} {count} (up to {:.1} s)", longest.as_secs_f64()));
    let told: Vec<String> = told.collect();
    if told.is_empty() { "none".to_owned() } else { told.join(", ") }
}

/// The fault in which a call began, else the first that came while it waited.
fn under_way(one: &Try, fired: &[Fired]) -> &'static str {
    let meets = |fault: &&Fired| fault.from <= one.begun + one.took && one.begun <= fault.to + fault.recovered;
    fired.iter().find(meets).map_or("no fault", |fault| fault.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn late_calls_are_counted_by_the_fault_they_met() {
        let fault = |kind, from, to| Fired {
            kind,
            count: 1,
            what: String::new(),
            on: String::new(),
            from: ms(from),
            to: ms(to),
            recovered: ms(500),
        };
        let fired = [fault("blackhole", 10_000, 12_000), fault("stop-query", 13_000, 15_000)];
        let call = |begun, took| Try::answered(ms(begun), ms(took));
        let calls = [
            call(1_000, 2_600),
            call(9_000, 3_000),
            call(12_400, 4_000),
            call(12_600, 3_000),
            // Fast enough, whatever went on.
            call(11_000, 2_400),
        ];
        assert_eq!(
            late(calls.iter(), &fired),
            "blackhole 2 (up to 4.0 s), no fault 1 (up to 2.6 s), stop-query 1 (up to 3.0 s)"
        );
        assert_eq!(late(calls[4..].iter(), &fired), "none");
    }
}
