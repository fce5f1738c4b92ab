//! The operator's verbs beside a running `serve`: a 0600 Unix socket in the data folder. One JSON line asks; JSON lines answer;
//! the last one carries the exit code.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use commands::Handler;
use projector::Board;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::operator::{Operator, Refusal, Verb, account};
use crate::platform::Platform;

const REQUEST_MAX_BYTES: u64 = 64 * 1024;
/// An operator that does not read for so long is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("casitas.sock")
}

/// Binds the socket (the data folder is held, so whatever is there is stale) and answers until shutdown.
pub fn serve(
    data_dir: &Path,
    platform: Platform,
    handler: Handler,
    board: Board,
    shutdown: CancellationToken,
) -> Result<impl Future<Output = ()> + Send + use<>> {
    let path = path(data_dir);
    if path.exists() {
        std::fs::remove_file(&path).with_context(|| format!("the stale socket {} cannot be removed", path.display()))?;
    }
    let listener = UnixListener::bind(&path).with_context(|| format!("the socket {} cannot be made", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(async move {
        // One for all of them, so that two rebuilds of a model know of each other.
        let all = Operator::new(platform, Some(handler), Some(board), String::new());
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            let Ok((stream, _)) = accepted else { continue };
            // Who asks is told by the kernel, not by the asker.
            let Ok(asker) = stream.peer_cred() else { continue };
            let (operator, token) = (all.clone().by(account(asker.uid())), shutdown.clone());
            tokio::spawn(async move {
                tokio::select! {
                    answered = answer(stream, operator) => if let Err(error) = answered {
                        tracing::debug!(%error, "an operator's connection ended early");
                    },
                    () = token.cancelled() => {}
                }
            });
        }
        let _ = std::fs::remove_file(&path);
    })
}

async fn answer(stream: UnixStream, operator: Operator) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(read.take(REQUEST_MAX_BYTES));
    reader.read_line(&mut line).await?;
    let verb: Verb = serde_json::from_str(&line).context("not a verb of this version")?;
    let (rows, mut waiting) = mpsc::channel::<Value>(64);
    let work = tokio::spawn(async move { operator.run(verb, rows).await });
    // Nothing more is asked: what can be read is that the other side has gone.
    let mut rest = reader.into_inner().into_inner();
    let mut nothing = [0; 1];
    loop {
        let row = tokio::select! {
            row = waiting.recv() => row,
            gone = rest.read(&mut nothing) => if matches!(gone, Ok(0) | Err(_)) { None } else { continue },
        };
        let Some(row) = row else { break };
        let mut text = row.to_string();
        text.push('\n');
        // A tail ends when nobody reads it any more.
        let written = tokio::time::timeout(WRITE_TIMEOUT, write.write_all(text.as_bytes())).await;
        if !matches!(written, Ok(Ok(()))) {
            break;
        }
    }
    drop(waiting);
    let last = match work.await {
        Ok(Ok(exit)) => json!({"exit": exit}),
        Ok(Err(error)) => {
            let exit = error.downcast_ref::<Refusal>().map_or(crate::exit::FAILED, |refusal| refusal.code);
            json!({"exit": exit, "error": format!("{error:#}")})
        }
        Err(_) => json!({"exit": 1, "error": "the verb failed"}),
    };
    write.write_all(format!("{last}\n").as_bytes()).await?;
    Ok(())
}

/// Asks a running `serve`; `None` when none answers on that folder.
pub async fn ask(data_dir: &Path, verb: &Verb, mut row: impl FnMut(Value) -> bool) -> Result<Option<u8>> {
    let Ok(stream) = UnixStream::connect(path(data_dir)).await else { return Ok(None) };
    let (read, mut write) = stream.into_split();
    write.write_all(format!("{}\n", serde_json::to_string(verb)?).as_bytes()).await?;
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let value: Value = serde_json::from_str(&line)?;
        match value.get("exit").and_then(Value::as_u64) {
            Some(exit) => {
                if let Some(error) = value.get("error").and_then(Value::as_str) {
                    eprintln!("error: {error}");
                }
                return Ok(Some(exit as u8));
            }
            None if row(value) => {}
            None => {
                // It is told that nobody listens any more, and ends when it has put away what it had begun.
                drop(write);
                while let Ok(Some(_)) = lines.next_line().await {}
                return Ok(Some(crate::exit::OK));
            }
        }
    }
    anyhow::bail!("the running casitas ended before it had answered")
}
