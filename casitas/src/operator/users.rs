//! `casitas users`.

use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use commands::step;
use domain::UserId;
use domain::auth::{
    PasswordHash, RegisterUser, Role as UserRole, User, UserCommand, UserDetails, UserNameClaim, UserNameClaimCommand,
    check_password, user_name,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{Operator, Rows, undone};
use crate::exit;

#[derive(Clone, Debug, Subcommand, Serialize, Deserialize)]
pub enum Users {
    /// Add a user; the password is asked for on a terminal or read from standard input.
    #[command(after_help = "Example:\n  casitas users add ana --role admin --name 'Ana Ruiz'")]
    Add {
        username: String,
        /// May be repeated.
        #[arg(long = "role", required = true)]
        roles: Vec<String>,
        #[arg(long, default_value = "")]
        name: String,
        #[arg(long, default_value = "")]
        email: String,
        #[arg(skip)]
        #[serde(default)]
        password: Option<String>,
    },
}

impl Operator {
    pub(super) async fn users(&self, verb: Users, rows: &Rows) -> Result<u8> {
        match verb {
            Users::Add { username, roles, name, email, password } => {
                self.add_user(&username, &roles, name, email, password, rows).await
            }
        }
    }

    async fn add_user(
        &self,
        username: &str,
        roles: &[String],
        name: String,
        email: String,
        password: Option<String>,
        rows: &Rows,
    ) -> Result<u8> {
        let handler = self.handler.as_ref().context("this process cannot write")?;
        let username = user_name(username).map_err(|fault| anyhow::anyhow!("{}: {}", fault.pointer, fault.detail))?;
        let roles = roles.iter().map(|role| UserRole::from_str(role).map_err(anyhow::Error::msg)).collect::<Result<_>>()?;
        let password = password.context("a password is needed: type it, or pipe it in")?;
        check_password(&password, false)?;
        let hash = tokio::task::spawn_blocking(move || command_api::hash_password(&password)).await?;
        let id = UserId(Uuid::now_v7());
        let register = UserCommand::RegisterUser(RegisterUser {
            user_id: id,
            username: username.clone(),
            roles,
            party_id: None,
            personal: UserDetails {
                email: if email.is_empty() { format!("{username}@localhost.localdomain") } else { email },
                name: if name.is_empty() { username.clone() } else { name },
            },
            password_hash: Some(PasswordHash::new(hash.map_err(anyhow::Error::msg)?)),
            demo: false,
        });
        let claim = UserNameClaimCommand::ClaimUserName { user_id: id };
        let steps = [step::<User>(id.to_string(), register), step::<UserNameClaim>(username.clone(), claim)];
        match handler.execute(&self.issue(), &steps).await {
            Ok(_) => {
                rows.send(json!({"id": id, "username": username})).await?;
                Ok(exit::OK)
            }
            Err(error) if error.refusal().is_some_and(|refusal| refusal.code == "USERNAME_TAKEN") => {
                bail!("the user name {username} is taken; choose another")
            }
            Err(error) => Err(undone(error)),
        }
    }
}
