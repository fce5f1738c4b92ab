//! A role whose clock is wrong by ten minutes.
//!
//! Events are dated by Postgres, so whoever's clock it is: the logs' order and time, what was acknowledged and the views must be
//! as ever. Three things may change, and must not be taken for faults. Tokens are dated and judged by the role: while it is the
//! command-api's clock, the clients keep a token that both clocks take, and nobody logs in. What is called today is the role's
//! day: the error never goes over midnight. What expires does so by the role's clock: the clients' holds last for hours.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::faults::Harness;
use super::schedule::Plan;
use crate::http;
use crate::scenarios::client::Http;
use crate::scenarios::dates::now;
use crate::scenarios::tokens;

const SKEW_S: i64 = 600;
/// So long before and after midnight the clock goes wrong only to the side on which the day is the same.
const MIDNIGHT_S: u64 = 1_200;
const DAY_S: u64 = 86_400;
const HOUR_S: i64 = 3_600;
const COMMAND_API: &str = "command-api";

impl Harness<'_> {
    pub(super) fn skew(&mut self, plan: &Plan) -> Result<(u64, String)> {
        let Some(library) = faketime() else {
            let why = "libfaketime is not installed (Debian's package `faketime`)".to_owned();
            self.findings.absent.insert("skew", why.clone());
            return Ok((0, why));
        };
        let pem = self.stack.secret("jwt.pem")?;
        let caller = self.load.caller();
        let token = caller.token().context("nobody is logged in")?;
        // Outside of what a wrong clock can excuse: over a quarter of an hour from now, either way.
        let wrong = [
            ("ended 15 min ago", tokens::shifted(token, &pem, -HOUR_S, -900)?),
            ("valid in 15 min", tokens::shifted(token, &pem, 900, HOUR_S)?),
        ];
        let offset_s = offset_s(plan.dice, now().as_secs());
        if plan.target != COMMAND_API {
            return self.with_wrong_clock(plan, &library, offset_s, &wrong);
        }
        self.load.keep_token(&tokens::shifted(token, &pem, -HOUR_S, HOUR_S)?);
        let seen = self.with_wrong_clock(plan, &library, offset_s, &wrong);
        self.load.log_in_again();
        seen
    }

    /// Stopped, started with the wrong clock, looked at, stopped, and started as it was.
    fn with_wrong_clock(
        &mut self,
        plan: &Plan,
        library: &Path,
        offset_s: i64,
        wrong: &[(&str, String)],
    ) -> Result<(u64, String)> {
        let variables = [
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME", format!("{offset_s:+}s")),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        let role = self.stack.role(plan.target)?;
        role.stop()?;
        for (name, value) in &variables {
            role.set_env(name, value.as_str());
        }
        let started = role.start();
        let seen = started.and_then(|()| self.look_at_wrong_clock(plan, offset_s, wrong));
        let role = self.stack.role(plan.target)?;
        role.stop()?;
        for (name, _) in &variables {
            role.unset_env(name);
        }
        role.start()?;
        seen
    }

    /// Whether it is really wrong, and whether it takes tokens that it must not.
    fn look_at_wrong_clock(&mut self, plan: &Plan, offset_s: i64, wrong: &[(&str, String)]) -> Result<(u64, String)> {
        let right = if plan.target == COMMAND_API { "query-1" } else { COMMAND_API };
        let (shown, honest) = (self.date_of(plan.target)?, self.date_of(right)?);
        // The projector takes none.
        if plan.target != "projector" {
            self.present(plan.target, offset_s, wrong)?;
        }
        sleep(Duration::from_millis(plan.lasts_ms.max(1_000)));
        Ok((u64::from(is_wrong(&shown, &honest)), format!("{} at {offset_s:+} s: it says {shown}", plan.target)))
    }

    /// What a role says that it is; nothing if it does not say.
    fn date_of(&mut self, role: &str) -> Result<String> {
        let port = self.stack.role(role)?.port();
        let date = http::get(port, "/livez").ok().and_then(|answer| answer.header("date").map(str::to_owned));
        Ok(date.unwrap_or_default())
    }

    fn present(&mut self, role: &str, offset_s: i64, wrong: &[(&str, String)]) -> Result<()> {
        let port = self.stack.role(role)?.port();
        let direct = Http::new(&format!("http://127.0.0.1:{port}"))?;
        for (name, token) in wrong {
            let caller = direct.with(token);
            let ask = match role {
                // Nothing that could be done; but it is refused as such only to whom the token lets in.
                COMMAND_API => caller.post("/units", &json!({})),
                _ => caller.get("/auth/me"),
            };
            let status = ask.now()?.status;
            if !matches!(status, 401 | 429 | 500..=599) {
                self.findings.wrong_tokens.push(format!("{role} at {offset_s:+} s took a token {name}: {status}"));
            }
        }
        Ok(())
    }
}

/// Forward or back by the dice, near midnight by what keeps the day.
fn offset_s(dice: u64, now_s: u64) -> i64 {
    let into_day = now_s % DAY_S;
    let forward = dice.is_multiple_of(2);
    match into_day {
        early if early < MIDNIGHT_S => SKEW_S,
        late if late >= DAY_S - MIDNIGHT_S => -SKEW_S,
        _ if forward => SKEW_S,
        _ => -SKEW_S,
    }
}

/// Whether two dates are about ten minutes apart: `Mon, 23 Nov 2026 06:53:58 GMT`.
fn is_wrong(shown: &str, honest: &str) -> bool {
    let minute = |date: &str| date.get(20..22)?.parse::<i64>().ok();
    let apart = minute(shown).zip(minute(honest)).map(|(shown, honest)| (shown - honest).rem_euclid(60));
    apart.is_some_and(|minutes| (9..=11).contains(&minutes) || (49..=51).contains(&minutes))
}

fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten();
    folders.map(|entry| entry.path().join("faketime/libfaketime.so.1")).find(|path| path.is_file())
}

/// Installs what a wrong clock needs, if that is possible here.
pub fn prepare() {
    if faketime().is_none()
        && let Err(error) = crate::packages::install_also("faketime")
    {
        eprintln!("chaos: no clock skew: {error:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_clock_never_shows_another_day() {
        for (now_s, dice, offset) in [
            (43_200, 0, SKEW_S),
            (43_200, 1, -SKEW_S),
            (0, 1, SKEW_S),
            (MIDNIGHT_S - 1, 1, SKEW_S),
            (DAY_S - MIDNIGHT_S, 0, -SKEW_S),
            (20_000 * DAY_S - 1, 0, -SKEW_S),
            (20_000 * DAY_S, 1, SKEW_S),
        ] {
            assert_eq!(offset_s(dice, now_s), offset, "{dice} at {now_s}");
        }
    }

    #[test]
    fn only_ten_minutes_either_way_are_a_wrong_clock() {
        let at = |time: &str| format!("Mon, 23 Nov 2026 {time} GMT");
        assert!(is_wrong(&at("06:53:58"), &at("07:03:59")) && is_wrong(&at("07:03:59"), &at("06:53:58")));
        assert!(!is_wrong(&at("06:53:58"), &at("06:53:59")) && !is_wrong("", &at("06:53:58")));
    }
}
