//! `events export`, the side at the file. The lines come from whoever has the logs: this process, or the `serve` beside it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use domain::Context;
use serde_json::{Value, json};

use super::format::{Header, Line, SUBJECT_KEYS, VERSION};
use super::lines::{LineReader, LineWriter, beside};
use super::progress::Progress;
use crate::config::Settings;
use crate::exit;
use crate::interrupt::Interrupts;
use crate::operator::{Events, Export, Format, Refusal, ResumeAt, Verb};
use crate::output::Printer;

/// Runs the verb; answers the exit code.
pub async fn export(settings: &Settings, mut export: Export, printer: &mut Printer) -> Result<u8> {
    let Some(mut files) = Files::open(&mut export)? else { return Ok(exit::CONFLICT) };
    let format = export.format;
    let (path, stdout, again) = (export.file.clone(), export.file == Path::new("-"), export.again(&settings.said));
    let mut interrupts = Interrupts::listen()?;
    let done = tokio::select! {
        done = crate::perform(settings, Verb::Events(Events::Export(export)), |row| files.take(&row)) => done,
        () = interrupts.next() => Err(Refusal::new(exit::INTERRUPTED, "interrupted").into()),
    };
    files.progress.clear();
    let failed = match (done, files.failed.take()) {
        (Ok(exit::OK), None) => None,
        (Ok(code), None) => Some((code, None)),
        (_, Some(error)) => Some((exit::FAILED, Some(error))),
        (Err(error), None) => {
            let code = error.downcast_ref::<Refusal>().map_or(exit::FAILED, |refusal| refusal.code);
            Some((code, Some(error)))
        }
    };
    if let Some((code, error)) = failed {
        if let Some(error) = error {
            eprintln!("error: {error:#}");
        }
        let (events, at) = (files.events, files.at.clone());
        files.keep_parts()?;
        let place = at.map_or_else(|| "nothing".to_owned(), |at| format!("{events} events, the last {at},"));
        match stdout || format != Format::Native {
            true => eprintln!("the export is not complete: {place} was written"),
            false => eprintln!(
                "the export is not complete: {place} is in {}; go on with: {again}",
                beside(&path, ".part").display()
            ),
        }
        return Ok(code);
    }
    let row = files.finish()?;
    match stdout {
        true => eprintln!("{row}"),
        false => drop(printer.row(row)),
    }
    Ok(exit::OK)
}

struct Files {
    path: PathBuf,
    lines: LineWriter,
    subjects: Option<LineWriter>,
    format: Format,
    header: Option<Header>,
    resumed: bool,
    events: u64,
    keys: u64,
    subject_keys: u64,
    /// The last event that was written, `context:position`.
    at: Option<String>,
    failed: Option<anyhow::Error>,
    progress: Progress,
}

impl Files {
    /// `None` when something is in the way, which was said.
    fn open(export: &mut Export) -> Result<Option<Self>> {
        let native = export.format == Format::Native;
        let stdout = export.file == Path::new("-");
        ensure!(native || !export.resume, "--resume is for the native format: a cut-off export of CloudEvents begins anew");
        ensure!(!stdout || !export.resume, "--resume needs a file");
        ensure!(
            !(stdout && native && export.keys.is_none() && !export.without_keys),
            "the keys of data subjects go to a file of their own: say --keys FILE, or --without-keys"
        );
        let (part, keys) = (beside(&export.file, ".part"), keys_path(export));
        let taken = [&export.file].into_iter().chain(keys.as_ref()).find(|path| !stdout && path.exists());
        if let Some(taken) = taken {
            eprintln!("error: {} exists: choose another name, or remove it", taken.display());
            return Ok(None);
        }
        if !stdout && part.exists() && !export.resume {
            let next = match native {
                true => "--resume goes on with it; remove it to begin anew",
                false => "one of CloudEvents begins anew: remove it",
            };
            eprintln!("error: {} is left of an export that was cut off: {next}", part.display());
            return Ok(None);
        }
        let subjects = match &keys {
            Some(keys) => {
                let mut writer = LineWriter::create(&beside(keys, ".part"), keys, false)?;
                let header = Header { format: SUBJECT_KEYS.into(), version: VERSION, contexts: vec![] };
                writer.line(&Line::Header(header).write()?)?;
                Some(writer)
            }
            None => None,
        };
        let lines = match stdout {
            true => LineWriter::stdout(export.zstd)?,
            false if export.resume => LineWriter::create(&beside(&export.file, ".part.new"), &export.file, export.zstd)?,
            false => LineWriter::create(&part, &export.file, export.zstd)?,
        };
        let mut files = Self {
            path: export.file.clone(),
            lines,
            subjects,
            format: export.format,
            header: None,
            resumed: false,
            events: 0,
            keys: 0,
            subject_keys: 0,
            at: None,
            failed: None,
            progress: Progress::of("export", 0),
        };
        if export.resume {
            export.at = files.copy_part(&part)?;
        }
        Ok(Some(files))
    }

    /// Takes over every whole line of the part; answers where to go on.
    fn copy_part(&mut self, part: &Path) -> Result<Option<ResumeAt>> {
        let mut reader = LineReader::open(part)?;
        let mut at: Option<ResumeAt> = None;
        while let Some(line) = reader.next()? {
            let text = reader.text();
            match (line, &mut at) {
                (Line::Header(header), None) => {
                    header.check(super::format::EVENTS)?;
                    self.header = Some(header.clone());
                    at = Some(ResumeAt { header, context: Context::ALL[0], position: 0, key: None });
                }
                (Line::Event(event), Some(at)) => {
                    (at.context, at.position, at.key) = (event.context, event.position, None);
                    self.events += 1;
                    self.at = Some(format!("{}:{}", event.context, event.position));
                }
                (Line::Key(key), Some(at)) => {
                    let head = at.header.contexts.iter().find(|head| head.context == key.context);
                    at.position = head.map_or(0, |head| head.position);
                    at.context = key.context;
                    at.key = Some((key.scope, key.key));
                    self.keys += 1;
                }
                (Line::Trailer(_), _) => break,
                _ => bail!("{} is out of place", reader.place()),
            }
            self.lines.line(text)?;
        }
        self.lines.move_part(part)?;
        self.resumed = at.is_some();
        Ok(at)
    }

    /// Writes a row of the operator; answers whether to go on.
    fn take(&mut self, row: &Value) -> bool {
        if let Err(error) = self.write(row) {
            self.failed = Some(error);
        }
        self.failed.is_none()
    }

    fn write(&mut self, row: &Value) -> Result<()> {
        let text = |name: &str| row.get(name).and_then(Value::as_str);
        if let Some(line) = text("line") {
            self.lines.line(line)?;
            match row.get("position").and_then(Value::as_u64) {
                Some(position) => {
                    self.events += 1;
                    self.at = Some(format!("{}:{position}", text("context").unwrap_or_default()));
                    self.progress.add(1);
                }
                None => self.keys += 1,
            }
        } else if let Some(line) = text("subject") {
            if let Some(subjects) = &mut self.subjects {
                subjects.line(line)?;
                self.subject_keys += 1;
            }
        } else if let Some(header) = row.get("header") {
            let header: Header = serde_json::from_value(header.clone())?;
            self.progress.expect(header.events());
            if self.format == Format::Native && !self.resumed {
                self.lines.line(&Line::Header(header.clone()).write()?)?;
            }
            self.header = Some(header);
        } else if let Some(warning) = text("warning") {
            eprintln!("warning: {warning}");
        }
        Ok(())
    }

    fn keep_parts(self) -> Result<()> {
        self.lines.keep_part()?;
        self.subjects.map_or(Ok(()), LineWriter::keep_part)
    }

    /// Names the files. The number of events must be what the logs held.
    fn finish(self) -> Result<Value> {
        let header = self.header.context("the export has no header")?;
        let expected = header.events();
        ensure!(self.events == expected, "{} events were written where the logs hold {expected}", self.events);
        let digest = match self.format {
            Format::Native => Some(self.lines.finish(self.events, self.keys)?),
            Format::Cloudevents => {
                self.lines.end()?;
                None
            }
        };
        if let Some(subjects) = self.subjects {
            subjects.finish(0, self.subject_keys)?;
        }
        let positions: serde_json::Map<String, Value> =
            header.contexts.iter().map(|head| (head.context.to_string(), json!(head.position))).collect();
        Ok(json!({"file": self.path, "events": self.events, "keys": self.keys, "subject_keys": self.subject_keys,
            "positions": positions, "sha256": digest}))
    }
}

fn keys_path(export: &Export) -> Option<PathBuf> {
    match (&export.keys, export.without_keys || export.format != Format::Native) {
        (_, true) => None,
        (Some(path), _) => Some(path.clone()),
        (None, _) => Some(beside(&export.file, ".keys")),
    }
}
