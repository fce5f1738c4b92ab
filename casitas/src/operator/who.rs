//! Who operates, and the record of what was done.

use anyhow::{Context as _, Result};
use commands::{Issue, step};
use domain::auth::{Operations, OperationsCommand, OperatorAction};

use super::Operator;

impl Operator {
    /// Records an action in the Operations stream, durably, before it is done.
    pub(super) async fn record(&self, action: OperatorAction, reason: Option<String>) -> Result<()> {
        let handler = self.handler.as_ref().context("this process cannot write")?;
        let command = OperationsCommand { by: self.by.clone(), reason, action };
        handler.execute(&Issue::by("cli"), &[step::<Operations>(Operations::ID, command)]).await?;
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
