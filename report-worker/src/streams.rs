//! Loading for all slots at once: what is asked for while a query runs goes into the next one. Nobody waits for company.

use std::sync::{Mutex, MutexGuard};

use domain::StreamId;
use ports::{Error, EventLog, Result, StreamEvents};
use tokio::sync::{Mutex as Turn, oneshot};

/// Streams of one query.
const STREAMS_MAX: usize = 64;

#[derive(Default)]
pub(crate) struct Streams {
    waiting: Mutex<Vec<Ask>>,
    turn: Turn<()>,
}

struct Ask {
    stream: StreamId,
    reply: oneshot::Sender<Result<StreamEvents>>,
}

impl Streams {
    /// The whole stream as the log has it after this call began.
    pub(crate) async fn load(&self, log: &dyn EventLog, stream: StreamId) -> Result<StreamEvents> {
        let (reply, mut answer) = oneshot::channel();
        self.waiting().push(Ask { stream, reply });
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => {
                    let gone = |_| Err(Error::unavailable("a report's stream", "the job that asked for it ended"));
                    return answer.unwrap_or_else(gone);
                }
                // Whoever is next asks for everybody who waits.
                _turn = self.turn.lock() => {
                    let asks: Vec<Ask> = {
                        let mut waiting = self.waiting();
                        let count = waiting.len().min(STREAMS_MAX);
                        waiting.drain(..count).collect()
                    };
                    ask(log, asks).await;
                }
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Ask>> {
        self.waiting.lock().expect("nothing panics under this lock")
    }
}

async fn ask(log: &dyn EventLog, asks: Vec<Ask>) {
    if asks.is_empty() {
        return;
    }
    let (streams, replies): (Vec<_>, Vec<_>) = asks.into_iter().map(|ask| (ask.stream, ask.reply)).unzip();
    match log.load_many(&streams).await {
        Ok(loaded) => replies.into_iter().zip(loaded).for_each(|(reply, stream)| drop(reply.send(Ok(stream)))),
        Err(error) if error.is_transient() => {
            let chain = error.chain();
            let away = || Err(Error::unavailable("the reports log", chain.clone()));
            replies.into_iter().for_each(|reply| drop(reply.send(away())));
        }
        // One of them cannot be read; that is its own fault and nobody else's.
        Err(_) => {
            for (stream, reply) in streams.iter().zip(replies) {
                let alone = log.load_many(std::slice::from_ref(stream)).await;
                let _ = reply.send(alone.map(|loaded| loaded.into_iter().next().unwrap_or_default()));
            }
        }
    }
}
