//! Checkpoints of followers, and the keys of data subjects: the small tables beside a log.

use async_trait::async_trait;
use ports::{Checkpoint, Error, FollowerCheckpoints, Position, Result, SubjectKeys};
use sqlx::postgres::PgRow;

use super::errors::Call;
use super::log::PostgresLog;
use crate::stored::{signed, unsigned};

#[async_trait]
impl FollowerCheckpoints for PostgresLog {
    async fn follower_checkpoint(&self, name: &str) -> Result<Option<Checkpoint>> {
        let query = sqlx::query(
            "SELECT incarnation, position, event_id FROM follower_checkpoints WHERE name = $1 AND position IS NOT NULL",
        );
        let row = self.run(Call::Read, async |connection| query.bind(name).fetch_optional(connection).await).await?;
        row.map(|row| self.checkpoint(&row)).transpose()
    }

    async fn follower_checkpoints(&self) -> Result<Vec<(String, Checkpoint)>> {
        let query = sqlx::query(
            "SELECT name, incarnation, position, event_id FROM follower_checkpoints
              WHERE position IS NOT NULL ORDER BY name",
        );
        let rows = self.run(Call::Read, async |connection| query.fetch_all(connection).await).await?;
        rows.iter().map(|row| Ok((self.column(row, "name")?, self.checkpoint(row)?))).collect()
    }

    async fn claim_follower(&self, name: &str) -> Result<Option<u64>> {
        if !self.claims.try_lead(name).await? {
            return Ok(None);
        }
        let query = sqlx::query_scalar(
            "INSERT INTO follower_checkpoints (name, term) VALUES ($1, 1)
             ON CONFLICT (name) DO UPDATE SET term = follower_checkpoints.term + 1, updated_at = now() RETURNING term",
        );
        let term: i64 = self.run(Call::Write, async |connection| query.bind(name).fetch_one(connection).await).await?;
        unsigned(term).map(Some)
    }

    async fn advance_follower(&self, name: &str, term: u64, from: Option<Position>, to: &Checkpoint) -> Result<()> {
        let (term, to_position) = (signed(term)?, signed(to.position)?);
        let from = from.map(signed).transpose()?;
        let query = sqlx::query(
            "UPDATE follower_checkpoints SET incarnation = $4, position = $5, event_id = $6, updated_at = now()
              WHERE name = $1 AND term = $2 AND position IS NOT DISTINCT FROM $3",
        )
        .bind(name)
        .bind(term)
        .bind(from)
        .bind(to.incarnation)
        .bind(to_position)
        .bind(to.event_id);
        let done = self.run(Call::Write, async |connection| query.execute(connection).await).await?;
        match done.rows_affected() {
            1 => Ok(()),
            _ => Err(Error::Conflict(format!("the follower {name} moved or has a new leader"))),
        }
    }
}

impl PostgresLog {
    fn checkpoint(&self, row: &PgRow) -> Result<Checkpoint> {
        Ok(Checkpoint {
            incarnation: self.column(row, "incarnation")?,
            position: unsigned(self.column(row, "position")?)?,
            event_id: self.column(row, "event_id")?,
        })
    }
}

#[async_trait]
impl SubjectKeys for PostgresLog {
    async fn subject_key(&self, subject: &str) -> Result<Option<Vec<u8>>> {
        let query = sqlx::query_scalar("SELECT wrapped FROM subject_keys WHERE subject = $1");
        let wrapped: Option<Option<Vec<u8>>> =
            self.run(Call::Read, async |connection| query.bind(subject).fetch_optional(connection).await).await?;
        Ok(wrapped.flatten())
    }

    async fn destroy_subject_key(&self, subject: &str) -> Result<()> {
        let query = sqlx::query(
            "INSERT INTO subject_keys (subject, wrapped, erased_at) VALUES ($1, NULL, now())
             ON CONFLICT (subject) DO UPDATE SET wrapped = NULL, erased_at = coalesce(subject_keys.erased_at, now())",
        );
        self.run(Call::Write, async |connection| query.bind(subject).execute(connection).await).await?;
        Ok(())
    }
}
