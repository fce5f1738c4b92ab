//! `events export`, the side at the file. The lines come from whoever has the logs: this process, or the `serve` beside it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use domain::Context;
use ports::Position;
use serde_json::{Value, json};

use super::cloudevents::place_of;
use super::format::{EVENTS, Header, Line, SUBJECT_KEYS, VERSION};
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
    let (asked, stdout) = (export.clone(), export.file == Path::new("-"));
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
        let (events, at) = (files.events, files.at);
        files.keep_parts()?;
        let place = match at {
            Some((context, position)) => format!("{events} events, the last {context}:{position},"),
            None => "nothing".to_owned(),
        };
        // The command ends what is said: the rest of the line is for the shell.
        let (there, next) = match stdout {
            true => ("was written".to_owned(), asked.rest_of_pipe(at, &settings.said)),
            false => {
                let part = beside(&asked.file, ".part");
                (format!("is in {}", part.display()), format!("go on with: {}", asked.again(&settings.said)))
            }
        };
        eprintln!("the export is not complete: {place} {there}; {next}");
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
    /// Where the header of CloudEvents stands until their file is complete: it is none of their lines.
    head: Option<PathBuf>,
    resumed: bool,
    events: u64,
    keys: u64,
    subject_keys: u64,
    /// The last event that was written.
    at: Option<(Context, Position)>,
    failed: Option<anyhow::Error>,
    progress: Progress,
}

impl Files {
    /// `None` when something is in the way, which was said.
    fn open(export: &mut Export) -> Result<Option<Self>> {
        let native = export.format == Format::Native;
        let stdout = export.file == Path::new("-");
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
            let next = "--resume goes on with it; remove it to begin anew";
            eprintln!("error: {} is left of an export that was cut off: {next}", part.display());
            return Ok(None);
        }
        let head = (!native && !stdout).then(|| beside(&export.file, ".part.head"));
        // Of a part that was removed.
        if let Some(left) = head.as_ref().filter(|head| !export.resume && head.exists()) {
            fs::remove_file(left).with_context(|| format!("{} cannot be removed", left.display()))?;
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
            head,
            resumed: false,
            events: 0,
            keys: 0,
            subject_keys: 0,
            at: None,
            failed: None,
            progress: Progress::of("export", 0),
        };
        if export.resume {
            export.at = match native {
                true => files.copy_part(&part)?,
                false => files.copy_events(&part)?,
            };
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
                    self.at = Some((event.context, event.position));
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

    /// Takes over every whole CloudEvent of the part; answers where to go on.
    fn copy_events(&mut self, part: &Path) -> Result<Option<ResumeAt>> {
        let mut reader = LineReader::open(part)?;
        let head = self.head.clone().unwrap_or_default();
        // It was cut off before it knew where the logs stood.
        if !head.exists() && !reader.step()? {
            self.lines.move_part(part)?;
            return Ok(None);
        }
        let unknown = || {
            let (head, part) = (head.display(), part.display());
            format!("where the logs stood cannot be read from {head}: remove {part} and begin anew")
        };
        let text = fs::read_to_string(&head).with_context(unknown)?;
        let header: Header = serde_json::from_str(&text).with_context(unknown)?;
        header.check(EVENTS)?;
        let mut at = ResumeAt { header, context: Context::ALL[0], position: 0, key: None };
        while reader.step()? {
            let event: Value =
                serde_json::from_str(reader.text()).with_context(|| format!("{} is no CloudEvent", reader.place()))?;
            // Each log counts from 1, and has no gap.
            let follows = |(context, position): &(Context, Position)| match *context == at.context {
                true => *position == at.position + 1,
                false => *context > at.context && *position == 1,
            };
            let Some(place) = place_of(&event).filter(follows) else { bail!("{} is out of place", reader.place()) };
            self.lines.line(reader.text())?;
            (at.context, at.position) = place;
            self.events += 1;
            self.at = Some(place);
        }
        self.lines.move_part(part)?;
        self.resumed = true;
        Ok(Some(at))
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
                    let context = text("context").and_then(|name| name.parse::<Context>().ok());
                    self.events += 1;
                    self.at = context.map(|context| (context, position));
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
            match (self.format, &self.head) {
                _ if self.resumed => {}
                (Format::Native, _) => self.lines.line(&Line::Header(header.clone()).write()?)?,
                (Format::Cloudevents, None) => {}
                (Format::Cloudevents, Some(head)) => fs::write(head, serde_json::to_string(&header)?)
                    .with_context(|| format!("{} cannot be written", head.display()))?,
            }
            self.header = Some(header);
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
        if let Some(head) = &self.head {
            // The file is complete: nobody goes on with it.
            let _ = fs::remove_file(head);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn export(file: &Path, resume: bool) -> Export {
        let (file, format) = (file.to_owned(), Format::Cloudevents);
        Export { file, format, zstd: false, keys: None, without_keys: false, resume, at: None }
    }

    /// Two events of auth, and two of legal.
    fn header() -> Value {
        let life = "00000000-0000-0000-0000-000000000007";
        let log = |context: &str, position: u64| json!({"context": context, "incarnation": life, "position": position, "followers": []});
        json!({"format": EVENTS, "version": VERSION, "contexts": [log("auth", 2), log("units", 0), log("legal", 2)]})
    }

    fn row(context: &str, position: u64) -> Value {
        let event = json!({"source": format!("/casitas/{context}"), "position": position.to_string(), "data": "née"});
        json!({"line": event.to_string(), "context": context, "position": position})
    }

    fn opened(export: &mut Export) -> Files {
        Files::open(export).expect("opened").expect("nothing is in the way")
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).expect("the file is there")
    }

    #[test]
    fn an_export_of_cloud_events_goes_on_behind_its_last_whole_line_as_of_its_own_moment() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("events.ndjson");
        let (part, head) = (beside(&file, ".part"), beside(&file, ".part.head"));
        let all = [row("auth", 1), row("auth", 2), row("legal", 1), row("legal", 2)];
        let line = |row: &Value| row["line"].as_str().expect("a line").to_owned();

        let mut files = opened(&mut export(&file, false));
        assert!(files.take(&json!({"header": header()})) && all[..3].iter().all(|row| files.take(row)));
        files.keep_parts().expect("kept");
        // Killed in the middle of a letter.
        let cut = text(&part).rfind('é').expect("a letter of two bytes") + 1;
        let bytes = fs::read(&part).expect("readable");
        fs::write(&part, &bytes[..cut]).expect("cut");
        assert!(Files::open(&mut export(&file, false)).expect("no error").is_none(), "the part was overwritten");

        let mut again = export(&file, true);
        let mut files = opened(&mut again);
        let at = again.at.expect("a place to go on from");
        assert_eq!((at.context, at.position, at.key), (Context::Auth, 2, None));
        assert_eq!(serde_json::to_value(&at.header).expect("JSON"), header());
        assert!(files.take(&json!({"header": at.header})) && all[2..].iter().all(|row| files.take(row)));
        let row = files.finish().expect("every event is there");
        assert_eq!((&row["events"], &row["positions"]["legal"]), (&json!(4), &json!(2)));
        assert_eq!(text(&file), all.iter().map(|row| line(row) + "\n").collect::<String>());
        assert!(!part.exists() && !head.exists(), "something of it is left");
    }

    #[test]
    fn a_part_with_a_gap_or_of_an_unknown_moment_is_not_gone_on_with() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("events.ndjson");
        let mut files = opened(&mut export(&file, false));
        assert!(files.take(&json!({"header": header()})));
        assert!([row("auth", 1), row("legal", 2)].iter().all(|row| files.take(row)));
        files.keep_parts().expect("kept");
        let why = || Files::open(&mut export(&file, true)).err().map(|error| format!("{error:#}")).expect("refused");
        assert!(why().contains("line 2 is out of place"), "{}", why());
        fs::remove_file(beside(&file, ".part.head")).expect("removed");
        assert!(why().contains("begin anew"), "{}", why());
    }

    #[test]
    fn an_export_that_was_cut_off_before_its_first_event_begins() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("events.ndjson");
        opened(&mut export(&file, false)).keep_parts().expect("kept");
        let mut again = export(&file, true);
        let mut files = opened(&mut again);
        assert_eq!(again.at, None);
        assert!(files.take(&json!({"header": header()})) && beside(&file, ".part.head").exists());
    }

    #[test]
    fn the_rest_of_a_pipe_is_replayed_where_that_gives_the_same_lines() {
        let events = export(Path::new("-"), false);
        let at = Some((Context::Legal, 7));
        let replay = "go on with: casitas events replay --into stdout --from legal:8 --data-dir d";
        assert_eq!(events.rest_of_pipe(at, " --data-dir d"), replay);
        let anew = "begin anew with: casitas events export - --format cloudevents";
        assert_eq!(events.rest_of_pipe(None, ""), anew);
        assert_eq!(events.rest_of_pipe(at, " --output json"), format!("{anew} --output json"));
        let packed = Export { zstd: true, ..events.clone() };
        assert_eq!(packed.rest_of_pipe(at, ""), format!("{anew} --zstd"));
        let native = Export { format: Format::Native, without_keys: true, ..events };
        assert_eq!(native.rest_of_pipe(at, ""), "begin anew with: casitas events export - --without-keys");
    }
}
