//! Checkpoints of followers, and the keys of data subjects: the small tables beside a log.
//!
//! Leadership needs no lock here: the folder is held by this process alone, so a claim only starts a new term.

use async_trait::async_trait;
use ports::{Checkpoint, Error, FollowerCheckpoints, Position, Result, SubjectKeys};
use sqlx::sqlite::SqliteRow;

use super::log::SqliteLog;
use crate::stored::{micros, signed, unsigned};

#[async_trait]
impl FollowerCheckpoints for SqliteLog {
    async fn follower_checkpoint(&self, name: &str) -> Result<Option<Checkpoint>> {
        let query = sqlx::query(
            "SELECT incarnation, position, event_id FROM follower_checkpoints WHERE name = ? AND position IS NOT NULL",
        );
        let row = self.file.run(query.bind(name).fetch_optional(&self.file.readers)).await?;
        row.map(|row| self.checkpoint(&row)).transpose()
    }

    async fn follower_checkpoints(&self) -> Result<Vec<(String, Checkpoint)>> {
        let query = sqlx::query(
            "SELECT name, incarnation, position, event_id FROM follower_checkpoints
              WHERE position IS NOT NULL ORDER BY name",
        );
        let rows = self.file.run(query.fetch_all(&self.file.readers)).await?;
        rows.iter().map(|row| Ok((self.file.column(row, "name")?, self.checkpoint(row)?))).collect()
    }

    async fn claim_follower(&self, name: &str) -> Result<Option<u64>> {
        let query = sqlx::query_scalar(
            "INSERT INTO follower_checkpoints (name, term) VALUES (?, 1)
             ON CONFLICT (name) DO UPDATE SET term = term + 1 RETURNING term",
        );
        let term = self.file.run(query.bind(name).fetch_one(&self.file.writer)).await?;
        unsigned(term).map(Some)
    }

    async fn advance_follower(&self, name: &str, term: u64, from: Option<Position>, to: &Checkpoint) -> Result<()> {
        let query = sqlx::query(
            "UPDATE follower_checkpoints SET incarnation = ?, position = ?, event_id = ?
              WHERE name = ? AND term = ? AND position IS ?",
        )
        .bind(to.incarnation.to_string())
        .bind(signed(to.position)?)
        .bind(to.event_id.map(|id| id.to_string()))
        .bind(name)
        .bind(signed(term)?)
        .bind(from.map(signed).transpose()?);
        let done = self.file.run(query.execute(&self.file.writer)).await?;
        match done.rows_affected() {
            1 => Ok(()),
            _ => Err(Error::Conflict(format!("the follower {name} moved or has a new leader"))),
        }
    }
}

impl SqliteLog {
    fn checkpoint(&self, row: &SqliteRow) -> Result<Checkpoint> {
        Ok(Checkpoint {
            incarnation: self.file.parsed(row, "incarnation")?,
            position: unsigned(self.file.column(row, "position")?)?,
            event_id: self.file.parsed_or_null(row, "event_id")?,
        })
    }
}

#[async_trait]
impl SubjectKeys for SqliteLog {
    async fn subject_key(&self, subject: &str) -> Result<Option<Vec<u8>>> {
        let query = sqlx::query_scalar("SELECT wrapped FROM subject_keys WHERE subject = ?").bind(subject);
        let wrapped: Option<Option<Vec<u8>>> = self.file.run(query.fetch_optional(&self.file.readers)).await?;
        Ok(wrapped.flatten())
    }

    async fn destroy_subject_key(&self, subject: &str) -> Result<()> {
        let now = micros(self.clock.now());
        let query = sqlx::query(
            "INSERT INTO subject_keys (subject, wrapped, created_at, erased_at) VALUES (?1, NULL, ?2, ?2)
             ON CONFLICT (subject) DO UPDATE SET wrapped = NULL, erased_at = coalesce(erased_at, ?2)",
        )
        .bind(subject)
        .bind(now);
        self.file.run(query.execute(&self.file.writer)).await?;
        // The key must not live on in the write-ahead log.
        self.file.run(sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&self.file.writer)).await.map(drop)
    }
}
