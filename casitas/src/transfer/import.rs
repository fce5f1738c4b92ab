//! `events import`: a native export into the logs of an empty store of either mode.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use adapters::postgres::{PostgresLog, PostgresServer};
use anyhow::{Context as _, Result, bail, ensure};
use domain::{Context, StreamId};
use ports::{EventLog, Import, Recorded, Sealer, WrappedKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::format::{EVENTS, Header, Line, SUBJECT_KEYS, event_line};
use super::lines::{LineReader, beside};
use super::progress::Progress;
use crate::config::Settings;
use crate::exit;
use crate::interrupt::Interrupts;
use crate::operator::{Refusal, chained, quoted};
use crate::output::Printer;
use crate::platform::{Platform, Role};
use crate::secrets::Secrets;

/// Rows of one transaction, or so many bytes of payloads.
const BATCH: usize = 20_000;
const BATCH_BYTES: usize = 32 * 1024 * 1024;
/// Lines are handed on so many at a time, or so many bytes of them, and so often ahead of who takes them.
const LINES: usize = 1_000;
const LINES_BYTES: usize = 1024 * 1024;
const AHEAD: usize = 20;

#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
#[command(
    long_about = "Write an export into an empty store.

The logs get the events with the positions, ids, times and incarnations that they had: what is exported from here afterwards is the \
same file. Nothing else may run on the store meanwhile: stop `casitas serve`, or all roles of a distributed system (its databases must \
have been made by `casitas migrate`; the import logs in as their owner).

The whole file is checked before anything is written. The keys of data subjects are read from FILE.keys, or --keys; they are of use \
only with the master key of the system that exported: copy its master.key into the folder `keys` of an embedded store, or into the \
secrets of a distributed one, first. Copy the artifacts folder too: uploaded documents are not part of an export.

What was cut off goes on with --resume: the store must hold exactly the beginning of the same file.",
    after_help = "Examples:
  casitas events import history.ndjson.zst --dry-run
  casitas events import history.ndjson.zst
  CASITAS_POSTGRES=db:5432 CASITAS_SECRETS_DIR=/run/secrets casitas events import history.ndjson.zst --resume"
)]
pub struct ImportArgs {
    /// What `casitas events export` wrote.
    pub file: PathBuf,
    /// The wrapped keys of data subjects; FILE.keys when absent.
    #[arg(long, conflicts_with = "without_keys")]
    pub keys: Option<PathBuf>,
    /// Import no keys of data subjects: nobody can read the personal data.
    #[arg(long)]
    pub without_keys: bool,
    /// Check the file and the store, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Go on where an import of the same file was cut off.
    #[arg(long)]
    pub resume: bool,
}

impl ImportArgs {
    /// The command that goes on with an import that was cut off, under the settings that were said.
    pub fn again(&self, settings: &str) -> String {
        let mut call = format!("casitas events import {} --resume", quoted(&self.file));
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

/// Checks, then writes; answers the exit code.
pub async fn import(settings: &Settings, args: &ImportArgs, printer: &mut Printer) -> Result<u8> {
    let keys = keys_path(args)?;
    let checked = check_file(&args.file).await?;
    let subjects = keys.as_deref().map(read_subjects).transpose()?.unwrap_or_default();
    if args.dry_run && !settings.is_distributed() && !settings.data_dir.exists() {
        printer.row(checked.row(&args.file, subjects.len(), "checked"));
        return Ok(exit::OK);
    }
    let target = Target::open(settings).await?;
    if let Some(why) = in_the_way(&target.logs, &checked.header, args.resume).await? {
        eprintln!("error: {why}");
        return Ok(exit::CONFLICT);
    }
    check_master_key(&target.sealer, &subjects)?;
    if args.dry_run {
        printer.row(checked.row(&args.file, subjects.len(), "checked"));
        return Ok(exit::OK);
    }
    let mut writer = Writer::new(&target.logs, &checked.header);
    let mut interrupts = Interrupts::listen()?;
    // What was written stays; what is being written is waited for: nothing goes on behind the answer.
    let written = tokio::select! {
        written = writer.run(&args.file, &subjects) => written,
        () = interrupts.next() => Err(Refusal::new(exit::INTERRUPTED, "interrupted").into()),
    };
    // A second signal does not wait.
    let settled = tokio::select! {
        settled = writer.settle() => settled,
        () = interrupts.next() => Ok(()),
    };
    writer.progress.clear();
    if let Err(error) = written.and(settled) {
        let code = error.downcast_ref::<Refusal>().map_or(exit::FAILED, |refusal| refusal.code);
        // The command ends what is said: the rest of the line is for the shell.
        let (at, again) = (&writer.at, args.again(&settings.said));
        let message = format!("{error:#}; the import stopped behind {at}; go on with: {again}");
        return Err(Refusal::new(code, message).into());
    }
    printer.row(checked.row(&args.file, subjects.len(), "imported"));
    Ok(exit::OK)
}

/// What a file holds, after all of it was read.
struct Checked {
    header: Header,
    events: u64,
    keys: u64,
    sha256: String,
}

impl Checked {
    fn row(&self, file: &Path, subjects: usize, state: &str) -> Value {
        let positions: serde_json::Map<String, Value> =
            self.header.contexts.iter().map(|head| (head.context.to_string(), json!(head.position))).collect();
        json!({"file": file, "state": state, "events": self.events, "keys": self.keys, "subject_keys": subjects,
            "positions": positions, "sha256": self.sha256})
    }
}

fn keys_path(args: &ImportArgs) -> Result<Option<PathBuf>> {
    if args.without_keys {
        return Ok(None);
    }
    let path = args.keys.clone().unwrap_or_else(|| beside(&args.file, ".keys"));
    ensure!(
        path.exists(),
        "there is no {}: say --keys FILE, or --without-keys to import without the keys of data subjects",
        path.display()
    );
    Ok(Some(path))
}

fn read_header(reader: &mut LineReader, format: &str) -> Result<Header> {
    match reader.next()? {
        Some(Line::Header(header)) => {
            header.check(format)?;
            Ok(header)
        }
        _ => bail!("{} is no header of {format}", reader.place()),
    }
}

/// Reads the whole file: the order of everything, the counts and the digest.
async fn check_file(path: &Path) -> Result<Checked> {
    let mut reader = LineReader::open(path)?;
    let header = read_header(&mut reader, EVENTS)?;
    let names: Vec<Context> = header.contexts.iter().map(|head| head.context).collect();
    ensure!(names == Context::ALL, "{}: the contexts are {names:?}", reader.place());
    let mut lines = Lines::of(reader, path);
    let (mut place, mut position, mut events, mut keys) = (0, 0, 0, 0);
    let mut streams: HashMap<StreamId, u64> = HashMap::new();
    while let Some(line) = lines.next().await? {
        match line {
            Line::Event(event) => {
                while place < names.len() && header.contexts[place].position == position {
                    (place, position) = (place + 1, 0);
                    streams.clear();
                }
                let event = event.recorded().with_context(|| lines.place())?;
                let context = names.get(place).copied();
                ensure!(
                    context == Some(event.stream.context()) && event.position == position + 1,
                    "{}: {}:{} does not go on behind {}:{position}",
                    lines.place(),
                    event.stream.context(),
                    event.position,
                    context.map_or("the end", Context::as_str)
                );
                let sequence = streams.entry(event.stream.clone()).or_default();
                ensure!(
                    event.sequence == *sequence + 1,
                    "{}: {} goes on with {} behind {sequence}",
                    lines.place(),
                    event.stream,
                    event.sequence
                );
                *sequence += 1;
                position += 1;
                events += 1;
            }
            Line::Key(_) => keys += 1,
            Line::Trailer(trailer) => {
                ensure!(
                    (trailer.events, trailer.keys, header.events()) == (events, keys, events),
                    "{}: the trailer tells of {} events and {} keys, the header of {} events; there are {events} and {keys}",
                    path.display(),
                    trailer.events,
                    trailer.keys,
                    header.events()
                );
                return Ok(Checked { header, events, keys, sha256: trailer.sha256 });
            }
            Line::Header(_) | Line::Subject(_) => bail!("{} is out of place", lines.place()),
        }
    }
    bail!("{} breaks off after {events} of {} events: it has no trailer", path.display(), header.events())
}

fn read_subjects(path: &Path) -> Result<Vec<(Context, WrappedKey)>> {
    let mut reader = LineReader::open(path)?;
    read_header(&mut reader, SUBJECT_KEYS)?;
    let mut found = vec![];
    while let Some(line) = reader.next()? {
        match line {
            Line::Subject(subject) => found.push((subject.context, subject.key().with_context(|| reader.place())?)),
            Line::Trailer(trailer) => {
                ensure!(
                    trailer.keys == found.len() as u64,
                    "{} has {} keys, its trailer tells of {}",
                    path.display(),
                    found.len(),
                    trailer.keys
                );
                return Ok(found);
            }
            _ => bail!("{} is out of place", reader.place()),
        }
    }
    bail!("{} breaks off after {} keys", path.display(), found.len())
}

/// The logs to be written, by whoever may.
pub(super) struct Target {
    pub(super) logs: Vec<Arc<dyn EventLog>>,
    sealer: Sealer,
}

impl Target {
    pub(super) async fn open(settings: &Settings) -> Result<Self> {
        if let Some(address) = &settings.postgres {
            let folder = settings.secrets_dir.clone();
            let secrets = Secrets::at(folder.context("set CASITAS_SECRETS_DIR: the folder of `casitas secrets init`")?);
            let password = secrets.read("postgres_password")?;
            let owner = PostgresServer::new(address, "casitas_owner", &password).map_err(chained)?;
            let log = |context| Arc::new(PostgresLog::connect(context, &owner)) as Arc<dyn EventLog>;
            return Ok(Self { logs: Context::ALL.map(log).to_vec(), sealer: Sealer::new(secrets.master_key()?) });
        }
        let platform = Platform::open(settings, Role::Operator).await?;
        let logs: Result<Vec<_>> =
            Context::ALL.into_iter().map(|c| platform.logs.get(c).cloned().map_err(chained)).collect();
        Ok(Self { logs: logs?, sealer: platform.sealer()? })
    }
}

/// Why the store cannot take the file.
async fn in_the_way(logs: &[Arc<dyn EventLog>], header: &Header, resume: bool) -> Result<Option<String>> {
    for (log, head) in logs.iter().zip(&header.contexts) {
        let context = log.context();
        let stands = log.head().await.map_err(chained)?;
        if stands.position == 0 {
            continue;
        }
        if !resume {
            return Ok(Some(format!(
                "the {context} log is not empty, it stands at {}: an import needs an empty store (--resume goes on with an \
                 import of the same file that was cut off)",
                stands.position
            )));
        }
        if stands.incarnation != head.incarnation || stands.position > head.position {
            return Ok(Some(format!(
                "the {context} log (at {}, incarnation {}) is no beginning of that of the file (to {}, incarnation {})",
                stands.position, stands.incarnation, head.position, head.incarnation
            )));
        }
    }
    Ok(None)
}

fn check_master_key(sealer: &Sealer, subjects: &[(Context, WrappedKey)]) -> Result<()> {
    let first = subjects.iter().find_map(|(_, key)| Some((&key.subject, key.wrapped.as_ref()?)));
    let Some((subject, wrapped)) = first else { return Ok(()) };
    ensure!(
        sealer.unwraps(subject, wrapped),
        "the keys of data subjects are wrapped by another master key than that of this store: put master.key of the system that \
         exported in the place of this one's (folder `keys` of an embedded store, the secrets of a distributed one)"
    );
    Ok(())
}

struct Writer<'a> {
    logs: &'a [Arc<dyn EventLog>],
    header: &'a Header,
    /// Where everything before is written: `context:position`.
    at: String,
    progress: Progress,
    /// The rows that are being written while the next are collected: where the log stands then, how many events, the write.
    under_way: Option<(String, u64, JoinHandle<ports::Result<()>>)>,
}

impl<'a> Writer<'a> {
    fn new(logs: &'a [Arc<dyn EventLog>], header: &'a Header) -> Self {
        let progress = Progress::of("import", header.events());
        Self { logs, header, at: "nothing".into(), progress, under_way: None }
    }

    async fn run(&mut self, path: &Path, subjects: &[(Context, WrappedKey)]) -> Result<()> {
        let mut reader = LineReader::open(path)?;
        read_header(&mut reader, EVENTS)?;
        let mut lines = Lines::of(reader, path);
        let mut next = lines.next().await?;
        for (log, head) in self.logs.iter().zip(self.header.contexts.iter()) {
            let context = log.context();
            // What a first try has written already.
            let stands = log.head().await.map_err(chained)?.position;
            let mut stored = Stored::of(&**log, stands);
            let mut import = Import { incarnation: head.incarnation, after: stands, ..Import::default() };
            let mut bytes = 0;
            loop {
                match next {
                    Some(Line::Event(event)) if event.context == context => {
                        let event = event.recorded()?;
                        if event.position <= stands {
                            stored.compare(&event).await?;
                        } else {
                            bytes += event.payload.get().len();
                            import.events.push(event);
                        }
                    }
                    Some(Line::Key(key)) if key.context == context => import.keys.push(key.into()),
                    other => {
                        next = other;
                        break;
                    }
                }
                if import.events.len() + import.keys.len() >= BATCH || bytes >= BATCH_BYTES {
                    self.write(log, &mut import).await?;
                    bytes = 0;
                }
                next = lines.next().await?;
            }
            let own = subjects.iter().filter(|(of, _)| *of == context).map(|(_, key)| key);
            for subject in own {
                import.subjects.push(subject.clone());
                if import.subjects.len() >= BATCH {
                    self.write(log, &mut import).await?;
                }
            }
            import.followers = head.followers();
            self.write(log, &mut import).await?;
            self.settle().await?;
        }
        ensure!(matches!(next, Some(Line::Trailer(_))), "{} has changed since it was checked", path.display());
        Ok(())
    }

    /// Begins to write rows, when those before are written.
    async fn write(&mut self, log: &Arc<dyn EventLog>, import: &mut Import) -> Result<()> {
        self.settle().await?;
        let (context, count) = (log.context(), import.events.len() as u64);
        self.at = format!("{context}:{}", import.after);
        let after = import.after + count;
        let next = Import { incarnation: import.incarnation, after, ..Import::default() };
        let (log, rows) = (log.clone(), std::mem::replace(import, next));
        let write = tokio::spawn(async move { log.import(&rows).await });
        self.under_way = Some((format!("{context}:{after}"), count, write));
        Ok(())
    }

    async fn settle(&mut self) -> Result<()> {
        // It stays here until it has ended: whoever is interrupted while he waits waits for it once more.
        let Some((_, _, write)) = &mut self.under_way else { return Ok(()) };
        let written = write.await;
        let Some((at, count, _)) = self.under_way.take() else { return Ok(()) };
        written.context("the write panicked")?.map_err(chained)?;
        self.at = at;
        self.progress.add(count);
        Ok(())
    }
}

/// The lines of a file, read by a thread of their own while those before are worked on.
struct Lines {
    path: PathBuf,
    /// The line that was handed out last; the header is the first.
    number: u64,
    chunks: mpsc::Receiver<Result<Vec<Line>>>,
    chunk: std::vec::IntoIter<Line>,
}

impl Lines {
    /// Behind the header.
    fn of(mut reader: LineReader, path: &Path) -> Self {
        let (sender, chunks) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            let (mut last, mut lines, mut bytes) = (None, Vec::with_capacity(LINES), 0);
            while last.is_none() {
                match reader.next() {
                    Ok(Some(line)) => {
                        bytes += reader.text().len();
                        lines.push(line);
                    }
                    Ok(None) => last = Some(Ok(vec![])),
                    Err(error) => last = Some(Err(error)),
                }
                if lines.len() == LINES || bytes >= LINES_BYTES || last.is_some() {
                    bytes = 0;
                    let full = std::mem::replace(&mut lines, Vec::with_capacity(LINES));
                    // Whoever takes them has gone: so does this.
                    if sender.blocking_send(Ok(full)).is_err() {
                        return;
                    }
                }
            }
            last.into_iter().for_each(|last| drop(sender.blocking_send(last)));
        });
        Self { path: path.to_owned(), number: 1, chunks, chunk: vec![].into_iter() }
    }

    fn place(&self) -> String {
        format!("{}, line {}", self.path.display(), self.number)
    }

    /// `None` where the file ends.
    async fn next(&mut self) -> Result<Option<Line>> {
        loop {
            if let Some(line) = self.chunk.next() {
                self.number += 1;
                return Ok(Some(line));
            }
            match self.chunks.recv().await {
                Some(chunk) => self.chunk = chunk?.into_iter(),
                None => return Ok(None),
            }
        }
    }
}

/// The events that are there already, read along with the file.
struct Stored<'a> {
    log: &'a dyn EventLog,
    upto: u64,
    page: std::collections::VecDeque<Recorded>,
}

impl<'a> Stored<'a> {
    fn of(log: &'a dyn EventLog, upto: u64) -> Self {
        Self { log, upto, page: Default::default() }
    }

    async fn compare(&mut self, event: &Recorded) -> Result<()> {
        if self.page.is_empty() {
            let limit = BATCH.min((self.upto + 1 - event.position) as usize);
            self.page = self.log.read(event.position - 1, limit).await.map_err(chained)?.into();
        }
        let place = format!("{}:{}", event.stream.context(), event.position);
        let stored = self.page.pop_front().with_context(|| format!("the store has no {place}"))?;
        ensure!(
            event_line(&stored)? == event_line(event)?,
            "the store has another event at {place} than the file: it was not left by an import of this file"
        );
        Ok(())
    }
}
