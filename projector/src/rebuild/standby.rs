//! Generations that nobody reads, folded on: what is ready to be switched to, and what a rollback would land on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ports::{Clock, Generation, Generations, ModelSpec, Standing};
use read_models::ReadModel;
use tokio_util::sync::CancellationToken;

use crate::Side;
use crate::announce::Announcer;
use crate::pace::pause;
use crate::projection::Projection;
use crate::status::{Board, Kind};
use crate::tailer::Tailer;

/// How often it is looked for generations that came or went.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// The terms of the live generations as they were last seen: a leader that nobody gives anything to write learns from it that
/// another generation was switched to.
#[derive(Clone, Default)]
pub(crate) struct LiveTerms(Arc<Mutex<HashMap<String, u64>>>);

impl LiveTerms {
    fn see(&self, all: &[Generation]) {
        let live = all.iter().filter(|found| found.standing == Standing::Live);
        *self.seen() = live.map(|found| (found.head.model.to_string(), found.head.term)).collect();
    }

    pub(crate) fn of(&self, model: &str) -> Option<u64> {
        self.seen().get(model).copied()
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.0.lock().expect("nothing panics under this lock")
    }
}

pub(crate) struct Standbys {
    pub models: Vec<&'static dyn ReadModel>,
    pub tailers: HashMap<domain::Context, Arc<Tailer>>,
    pub views: Arc<dyn Generations>,
    pub clock: Arc<dyn Clock>,
    /// Of its own: whether readers are served does not depend on these.
    pub board: Board,
    pub live: LiveTerms,
}

/// Stops the follower when it goes.
struct Following(CancellationToken);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Standbys {
    /// Follows them until shutdown.
    pub(crate) async fn run(&self, shutdown: CancellationToken) {
        let mut following: HashMap<(&'static str, u64), Following> = HashMap::new();
        let specs: Vec<&'static ModelSpec> = self.models.iter().map(|model| model.spec()).collect();
        loop {
            match self.views.generations(&specs).await {
                Ok(all) => {
                    self.live.see(&all);
                    self.adjust(&all, &mut following, &shutdown);
                }
                Err(error) => tracing::debug!(error = error.chain(), "generations cannot be listed"),
            }
            if !pause(&shutdown, LOOK_PERIOD).await {
                return;
            }
        }
    }

    fn adjust(
        &self,
        all: &[Generation],
        following: &mut HashMap<(&'static str, u64), Following>,
        shutdown: &CancellationToken,
    ) {
        let mut wanted = Vec::new();
        for model in &self.models {
            let spec = model.spec();
            let of_it = all.iter().filter(|found| found.head.model == spec.name && found.fits);
            let fitting = of_it.filter(|found| found.head.fold_version == spec.fold_version);
            let followed = fitting.filter(|found| matches!(found.standing, Standing::Ready | Standing::Standby));
            wanted.extend(followed.map(|found| (*model, found.head.generation)));
        }
        following.retain(|(name, number), _| {
            wanted.iter().any(|(model, generation)| model.spec().name == *name && generation == number)
        });
        for (model, generation) in wanted {
            let (name, context) = (model.spec().name, model.spec().context);
            let Some(tailer) = self.tailers.get(&context) else { continue };
            following.entry((name, generation)).or_insert_with(|| {
                let token = shutdown.child_token();
                let projection = Projection {
                    model,
                    tailer: tailer.clone(),
                    views: self.views.clone(),
                    side: Some(Side { views: self.views.clone(), generation }),
                    live: LiveTerms::default(),
                    announcer: Announcer::default(),
                    hot: None,
                    delay: Duration::ZERO,
                    clock: self.clock.clone(),
                    reporter: self.board.follower(format!("{name}:{generation}"), Kind::Projection, context),
                    shutdown: token.clone(),
                };
                tokio::spawn(async move { projection.run().await });
                Following(token)
            });
        }
    }
}
