//! `export`, the side at the logs: the lines, one by one. `transfer::export` writes them to a file.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use domain::Context;
use ports::{EventLog, Position};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::exit;
use crate::operator::{Operator, Rows, chained, quoted};
use crate::transfer::{Header, Line, SubjectLine, cloud_event, cut, event_line, key_line};

const CHUNK: usize = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Format {
    /// Everything as stored, to be imported again.
    Native,
    /// CloudEvents 1.0, one a line, personal data masked.
    Cloudevents,
}

#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
#[command(
    long_about = "Write the whole history to a file.

A native export holds every event of all five logs as stored, in lines of JSON with a header and a trailer (counts, positions, \
SHA-256 of all lines): personal data stays sealed in it. Imported into an empty store of either mode it gives the same positions, \
and exported from there the same bytes. It is the way from embedded to distributed and back, and the backup that can be read in 30 \
years.

The keys of data subjects go to a file of their own (FILE.keys, or --keys), wrapped by the master key: without them, and without \
master.key (in the folder `keys` of an embedded store, in the secrets of a distributed one), nobody can read the personal data. Keep \
the three apart.

Uploaded documents and finished reports are not part of it: copy the artifacts folder beside it. Neither are the idempotency keys of \
HTTP callers, which live for 30 days, nor views, which are made again from the logs.

FILE is written as FILE.part and named at the end. What was cut off goes on with --resume, as of the moment at which it was begun (an \
export of CloudEvents keeps that in FILE.part.head meanwhile).",
    after_help = "Examples:
  casitas events export history.ndjson.zst --zstd
  casitas events export - --without-keys | sha256sum
  casitas events export --format cloudevents events.ndjson"
)]
pub struct Export {
    /// The file to make; - is standard output.
    pub file: PathBuf,
    #[arg(long, value_enum, default_value = "native")]
    pub format: Format,
    /// Pack it with zstd.
    #[arg(long)]
    pub zstd: bool,
    /// Where the wrapped keys of data subjects go; FILE.keys when absent.
    #[arg(long, conflicts_with = "without_keys")]
    pub keys: Option<PathBuf>,
    /// Leave the keys of data subjects out.
    #[arg(long)]
    pub without_keys: bool,
    /// Go on with FILE.part, where an export was cut off.
    #[arg(long)]
    pub resume: bool,
    /// Where to go on.
    #[arg(skip)]
    #[serde(default)]
    pub at: Option<ResumeAt>,
}

impl Export {
    /// The command that goes on with an export into a file that was cut off, under the settings that were said.
    pub fn again(&self, settings: &str) -> String {
        self.call(" --resume", settings)
    }

    /// How to come to the rest of what was written to a pipe up to this event. A replay delivers the same lines; what has a trailer,
    /// is packed, or is to be shown as something else than lines begins anew.
    pub fn rest_of_pipe(&self, at: Option<(Context, Position)>, settings: &str) -> String {
        match at {
            Some((context, position))
                if self.format == Format::Cloudevents && !self.zstd && !settings.contains(" --output") =>
            {
                let from = position + 1;
                format!("go on with: casitas events replay --into stdout --from {context}:{from}{settings}")
            }
            _ => format!("begin anew with: {}", self.call("", settings)),
        }
    }

    fn call(&self, resume: &str, settings: &str) -> String {
        let mut call = format!("casitas events export {}{resume}", quoted(&self.file));
        if self.format == Format::Cloudevents {
            call.push_str(" --format cloudevents");
        }
        if self.zstd {
            call.push_str(" --zstd");
        }
        if self.without_keys {
            call.push_str(" --without-keys");
        }
        if let Some(keys) = &self.keys {
            call.push_str(&format!(" --keys {}", quoted(keys)));
        }
        call.push_str(settings);
        call
    }
}

/// What an export that was cut off had written last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResumeAt {
    pub header: Header,
    pub context: Context,
    pub position: Position,
    /// Scope and key, where keys had begun.
    pub key: Option<(String, String)>,
}

impl Operator {
    /// Sends `{"line", …}` for each line of the export and `{"subject"}` for each of the keys' file.
    pub(super) async fn export(&self, export: &Export, rows: &Rows) -> Result<u8> {
        let logs = self.logs(None)?;
        let header = match &export.at {
            Some(at) => at.header.clone(),
            None => cut(&logs).await?,
        };
        rows.send(json!({ "header": header })).await?;
        for log in &logs {
            let context = log.context();
            let found = header.contexts.iter().find(|head| head.context == context);
            let head = found.with_context(|| format!("the part that was written knows no {context} log"))?;
            let stands = log.head().await.map_err(chained)?;
            ensure!(
                stands.incarnation == head.incarnation && stands.position >= head.position,
                "the {context} log is not the one that the export was begun of: remove the part and begin anew"
            );
            let (after, key) = match &export.at {
                Some(at) if context < at.context => continue,
                Some(at) if context == at.context => (at.position, at.key.clone()),
                _ => (0, None),
            };
            self.export_events(&**log, export.format, after, head.position, rows).await?;
            if export.format == Format::Native {
                export_keys(&**log, key, head.position, rows).await?;
            }
        }
        if export.format == Format::Native && !export.without_keys {
            for log in &logs {
                export_subjects(&**log, rows).await?;
            }
        }
        Ok(exit::OK)
    }

    async fn export_events(
        &self,
        log: &dyn EventLog,
        format: Format,
        mut after: Position,
        upto: Position,
        rows: &Rows,
    ) -> Result<()> {
        let context = log.context();
        while after < upto {
            let chunk = log.read(after, CHUNK.min((upto - after) as usize)).await.map_err(chained);
            let chunk = chunk.with_context(|| format!("the export stopped behind {context}:{after}"))?;
            if chunk.is_empty() {
                bail!("the {context} log ends at {after}, before {upto} where it stood");
            }
            for event in &chunk {
                let line = match format {
                    Format::Native => event_line(event)?,
                    Format::Cloudevents => cloud_event(event)?.to_string(),
                };
                after = event.position;
                rows.send(json!({"line": line, "context": context, "position": after})).await?;
            }
        }
        Ok(())
    }
}

async fn export_keys(log: &dyn EventLog, mut after: Option<(String, String)>, upto: Position, rows: &Rows) -> Result<()> {
    let context = log.context();
    loop {
        let place = after.as_ref().map(|(scope, key)| (scope.as_str(), key.as_str()));
        let page = log.kept_keys(place, CHUNK).await.map_err(chained);
        let page =
            page.with_context(|| format!("the export stopped behind {context}:{upto}, among its idempotency keys"))?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some((last.scope.clone(), last.key.clone()));
        for key in page {
            let name = [key.scope.clone(), key.key.clone()];
            if let Some(line) = key_line(context, upto, key) {
                rows.send(json!({"line": line.write()?, "context": context, "key": name})).await?;
            }
        }
    }
}

async fn export_subjects(log: &dyn EventLog, rows: &Rows) -> Result<()> {
    let mut after: Option<String> = None;
    loop {
        let page = log.wrapped_keys(after.as_deref(), CHUNK).await.map_err(chained);
        let page = page.with_context(|| format!("the export stopped among the subject keys of {}", log.context()))?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.subject.clone());
        for key in page {
            let line = Line::Subject(SubjectLine::of(log.context(), key)).write()?;
            rows.send(json!({ "subject": line })).await?;
        }
    }
}
