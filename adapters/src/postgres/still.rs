//! All generations at one moment: a `REPEATABLE READ READ ONLY` transaction that may take its time.

use async_trait::async_trait;
use ports::{Error, FieldKind, FieldValue, ModelHead, ModelSpec, Result, StillViews, StoredRow};
use sqlx::postgres::PgRow;

use super::errors::Call;
use super::generations::patiently;
use super::shelf::{Shelf, Taken};
use super::snapshot::head_of;
use super::views::{WHAT, column};
use crate::keyset::{self, shape, table};
use crate::stored::signed;
use crate::views::absent;

pub(super) struct PostgresStill {
    /// With an open transaction; `None` only while being dropped.
    connection: Option<Taken>,
}

impl PostgresStill {
    pub(super) async fn begin(shelf: &Shelf) -> Result<Self> {
        let mut connection = shelf.take().await?;
        let begin = sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        patiently(Call::Read, begin.execute(&mut *connection)).await?;
        // The moment is that of the first query, not of BEGIN.
        patiently(Call::Read, sqlx::query("SELECT 1 FROM view_heads LIMIT 1").execute(&mut *connection)).await?;
        Ok(Self { connection: Some(connection) })
    }

    fn connection(&mut self) -> Result<&mut Taken> {
        self.connection.as_mut().ok_or_else(|| Error::unavailable(WHAT, "the snapshot has ended"))
    }

    async fn found(&mut self, spec: &ModelSpec, generation: u64) -> Result<PgRow> {
        let sql =
            "SELECT model, generation, fold_version, term, revision, oldest_change, incarnation, position, event_id, shape
                     FROM view_heads WHERE model = $1 AND generation = $2";
        let query = sqlx::query(sql).bind(spec.name).bind(signed(generation)?);
        let row = patiently(Call::Read, query.fetch_optional(&mut **self.connection()?)).await?;
        row.ok_or_else(|| absent(spec.name, generation))
    }
}

impl Drop for PostgresStill {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        tokio::spawn(async move {
            if patiently(Call::Read, sqlx::query("ROLLBACK").execute(&mut *connection)).await.is_ok() {
                connection.give_back();
            }
        });
    }
}

#[async_trait]
impl StillViews for PostgresStill {
    async fn head(&mut self, spec: &'static ModelSpec, generation: u64) -> Result<ModelHead> {
        head_of(&self.found(spec, generation).await?)
    }

    async fn rows(
        &mut self,
        spec: &'static ModelSpec,
        generation: u64,
        after: &str,
        limit: usize,
    ) -> Result<Vec<StoredRow>> {
        let fits = column::<&str>(&self.found(spec, generation).await?, "shape")? == shape(spec);
        let mut names = String::new();
        for field in spec.fields.iter().filter(|_| fits) {
            names.push_str(&format!(", {}", keyset::column(field.name)?));
        }
        let table = table(spec.name, generation)?;
        let sql = format!("SELECT key, doc::text AS doc{names} FROM {table} WHERE key > $1 ORDER BY key LIMIT $2");
        let query = sqlx::query(&sql).bind(after).bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = patiently(Call::Read, query.fetch_all(&mut **self.connection()?)).await?;
        rows.iter().map(|row| stored(spec, row, fits)).collect()
    }
}

fn stored(spec: &ModelSpec, row: &PgRow, fits: bool) -> Result<StoredRow> {
    let mut fields = Vec::with_capacity(spec.fields.len());
    for field in spec.fields.iter().filter(|_| fits) {
        let name = keyset::column(field.name)?;
        fields.push(match field.kind {
            FieldKind::Text => FieldValue::from(column::<Option<String>>(row, &name)?),
            FieldKind::Int => FieldValue::from(column::<Option<i64>>(row, &name)?),
        });
    }
    Ok(StoredRow { key: column(row, "key")?, doc: column(row, "doc")?, fields })
}
