//! The books of all ledgers, one after the other.

use std::collections::VecDeque;

use ports::{FieldValue, OrderBy, Position, Result, Select, ViewSnapshot};

use super::{Book, CHUNK, Movement, SPEC};
use crate::ledgers::LedgerHead;

/// The lines of every ledger in the order of their keys, which is that of the ledgers: read in chunks, whoever they belong to.
pub struct Books<'a> {
    snapshot: &'a mut dyn ViewSnapshot,
    known: Position,
    select: Select,
    /// The ledger's id and its movement.
    ahead: VecDeque<(String, Movement)>,
    is_last: bool,
}

impl<'a> Books<'a> {
    /// The books as known at a position.
    pub fn new(snapshot: &'a mut dyn ViewSnapshot, known: Position) -> Self {
        let select = Select { model: SPEC.name, filters: vec![], order: OrderBy::KEY, after: None, limit: CHUNK };
        Self { snapshot, known, select, ahead: VecDeque::new(), is_last: false }
    }

    /// The book of a ledger; ledgers must be asked for in the order of their ids.
    pub async fn of(&mut self, head: LedgerHead) -> Result<Book> {
        let ledger = head.lease_id.to_string();
        let mut movements = Vec::new();
        loop {
            while let Some((id, movement)) = self.ahead.pop_front_if(|(id, _)| *id <= ledger) {
                if id == ledger && movement.position <= self.known {
                    movements.push(movement);
                }
            }
            if !self.ahead.is_empty() || self.is_last {
                return Ok(Book { head, movements });
            }
            self.read_on().await?;
        }
    }

    async fn read_on(&mut self) -> Result<()> {
        let rows = self.snapshot.select(&self.select).await?;
        self.is_last = rows.len() < CHUNK;
        for row in rows {
            let movement: Movement = row.read(SPEC.name)?;
            let ledger = row.key.split_once(':').map_or(row.key.as_str(), |(ledger, _)| ledger).to_owned();
            self.ahead.push_back((ledger, movement));
            self.select.after = Some((FieldValue::Null, row.key));
        }
        Ok(())
    }
}
