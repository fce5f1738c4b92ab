//! Files of lines, packed with zstd or not: written beside their place, read line by line.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest, Sha256};

use super::format::{Line, Trailer};

/// What a zstd frame begins with.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const ZSTD_LEVEL: i32 = 3;
/// A line is refused beyond this: no event is nearly as large.
const LINE_MAX: u64 = 64 * 1024 * 1024;

enum Out {
    Plain(BufWriter<Box<dyn Write + Send>>),
    Packed(zstd::Encoder<'static, BufWriter<Box<dyn Write + Send>>>),
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::Packed(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(out) => out.flush(),
            Self::Packed(out) => out.flush(),
        }
    }
}

/// Lines on their way to a file, or to standard output. A file gets its name when it is complete.
pub struct LineWriter {
    out: Out,
    /// The part and what it becomes.
    file: Option<(File, PathBuf, PathBuf)>,
    digest: Sha256,
}

impl LineWriter {
    /// Writes to `part`, which becomes `path`. Only its owner may read it.
    pub fn create(part: &Path, path: &Path, packed: bool) -> Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(part);
        let file = file.with_context(|| format!("{} cannot be written", part.display()))?;
        let out = out(Box::new(file.try_clone()?), packed)?;
        Ok(Self { out, file: Some((file, part.to_owned(), path.to_owned())), digest: Sha256::new() })
    }

    pub fn stdout(packed: bool) -> Result<Self> {
        Ok(Self { out: out(Box::new(std::io::stdout()), packed)?, file: None, digest: Sha256::new() })
    }

    pub fn line(&mut self, text: &str) -> Result<()> {
        self.digest.update(text.as_bytes());
        self.digest.update(b"\n");
        self.put(text)
    }

    fn put(&mut self, text: &str) -> Result<()> {
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.write_all(b"\n")).context("the export cannot be written")
    }

    /// The part takes the place of another one.
    pub fn move_part(&mut self, to: &Path) -> Result<()> {
        let Some((_, part, _)) = &mut self.file else { return Ok(()) };
        self.out
            .flush()
            .and_then(|()| std::fs::rename(&part, to))
            .with_context(|| format!("{} cannot be replaced", to.display()))?;
        to.clone_into(part);
        Ok(())
    }

    /// Ends with a trailer. Answers the digest.
    pub fn finish(mut self, events: u64, keys: u64) -> Result<String> {
        let sha256 = hex(&self.digest.clone().finalize());
        let trailer = Trailer { events, keys, sha256: sha256.clone() };
        self.put(&Line::Trailer(trailer).write()?)?;
        self.end()?;
        Ok(sha256)
    }

    /// Ends as it is, complete.
    pub fn end(self) -> Result<()> {
        let Some((file, part, path)) = self.close()? else { return Ok(()) };
        file.sync_all().with_context(|| format!("{} cannot be stored", part.display()))?;
        std::fs::rename(&part, &path).with_context(|| format!("{} cannot be renamed to {}", part.display(), path.display()))
    }

    /// Keeps what there is for somebody to go on from.
    pub fn keep_part(self) -> Result<()> {
        self.close().map(drop)
    }

    fn close(self) -> Result<Option<(File, PathBuf, PathBuf)>> {
        let written = match self.out {
            Out::Plain(mut out) => out.flush(),
            Out::Packed(out) => out.finish().and_then(|mut out| out.flush()),
        };
        written.context("the export cannot be written")?;
        Ok(self.file)
    }
}

fn out(to: Box<dyn Write + Send>, packed: bool) -> Result<Out> {
    let to = BufWriter::with_capacity(1 << 16, to);
    Ok(match packed {
        false => Out::Plain(to),
        true => Out::Packed(zstd::Encoder::new(to, ZSTD_LEVEL)?),
    })
}

/// Reads lines and checks what the trailer says of them.
pub struct LineReader {
    input: Box<dyn BufRead + Send>,
    path: PathBuf,
    number: u64,
    digest: Sha256,
    text: String,
}

impl LineReader {
    pub fn open(path: &Path) -> Result<Self> {
        let unreadable = || format!("{} cannot be read", path.display());
        let mut file = BufReader::with_capacity(1 << 16, File::open(path).with_context(unreadable)?);
        let packed = file.fill_buf().with_context(unreadable)?.starts_with(&ZSTD_MAGIC);
        let input: Box<dyn BufRead + Send> = match packed {
            false => Box::new(file),
            true => Box::new(BufReader::with_capacity(1 << 16, zstd::Decoder::with_buffer(file)?)),
        };
        Ok(Self { input, path: path.to_owned(), number: 0, digest: Sha256::new(), text: String::new() })
    }

    /// The next line; `None` where the file ends, or breaks off in the middle of one. A trailer must agree with what was read, and
    /// nothing may follow it.
    pub fn next(&mut self) -> Result<Option<Line>> {
        if !self.step()? {
            return Ok(None);
        }
        let line: Line = serde_json::from_str(&self.text)
            .with_context(|| format!("{} is no line of an export of casitas", self.place()))?;
        match &line {
            Line::Trailer(trailer) => {
                let read = hex(&self.digest.clone().finalize());
                ensure!(
                    trailer.sha256 == read,
                    "{} is not what was exported: its digest is {read}, the trailer says {}",
                    self.path.display(),
                    trailer.sha256
                );
                let mut more = [0; 1];
                ensure!(
                    self.input.read(&mut more).with_context(|| self.place())? == 0,
                    "{} goes on behind its trailer",
                    self.path.display()
                );
            }
            _ => {
                self.digest.update(self.text.as_bytes());
                self.digest.update(b"\n");
            }
        }
        Ok(Some(line))
    }

    /// Goes to the next line, whatever it says; `false` where the file ends, or breaks off in the middle of one.
    pub fn step(&mut self) -> Result<bool> {
        self.advance().with_context(|| self.place())
    }

    /// The line that was read last, as it stands in the file.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn place(&self) -> String {
        format!("{}, line {}", self.path.display(), self.number)
    }

    fn advance(&mut self) -> std::io::Result<bool> {
        // Bytes, because a line may break off in the middle of a letter.
        let mut line = std::mem::take(&mut self.text).into_bytes();
        line.clear();
        self.number += 1;
        let read = (&mut self.input).take(LINE_MAX).read_until(b'\n', &mut line);
        match read {
            Ok(_) if line.ends_with(b"\n") => {
                line.pop();
                self.text = String::from_utf8(line).map_err(std::io::Error::other)?;
                Ok(true)
            }
            // The end, or a last line that was not finished.
            Ok(read) if (read as u64) < LINE_MAX => Ok(false),
            Ok(_) => Err(std::io::Error::other("the line is too long")),
            // A packed file that breaks off.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `FILE.part`
pub fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
