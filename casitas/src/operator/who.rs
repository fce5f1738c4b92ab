//! Who operates, and the record of what was done.

use anyhow::{Context as _, Result};
use commands::{Issue, step};
use domain::auth::{Operations, OperationsCommand, OperatorAction};

use super::{Operator, undone};

impl Operator {
    /// A command of whoever operates: the event names the account, e.g. `cli:ana (1000)`.
    pub(super) fn issue(&self) -> Issue {
        Issue::by(format!("cli:{}", self.by))
    }

    /// Records an action in the Operations stream, durably, before it is done.
    pub(super) async fn record(&self, action: OperatorAction, reason: Option<String>) -> Result<()> {
        let handler = self.handler.as_ref().context("this process cannot write")?;
        let command = OperationsCommand { by: self.by.clone(), reason, action };
        handler.execute(&self.issue(), &[step::<Operations>(Operations::ID, command)]).await.map_err(undone)?;
        Ok(())
    }
}

/// The account of a user of this machine: `ana (1000)`.
pub fn account(uid: u32) -> String {
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    match name {
        Some(name) => format!("{name} ({uid})"),
        None => format!("uid {uid}"),
    }
}
