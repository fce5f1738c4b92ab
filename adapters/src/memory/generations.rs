//! Generations of the view store in memory.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use ports::{
    Checkpoint, Claim, Error, Generation, Generations, Load, ModelHead, ModelSpec, Part, Result, Standing, StillViews,
    StoredRow,
};

use super::MemoryViews;
use super::select;
use super::views::{Model, State};
use crate::views::{absent, behind, goes_back, is_live, lost, lost_load, not_complete, twice};

impl State {
    /// The generation that is being built in this term.
    fn built(&mut self, model: &str, generation: u64, term: u64) -> Result<&mut Model> {
        let built = self.generation(model, generation);
        built
            .filter(|built| built.standing == Standing::Building && built.head.term == term)
            .ok_or_else(|| lost(model, generation))
    }
}

fn generation_of(spec: &ModelSpec, model: &Model) -> Generation {
    let fits = model.fields.iter().eq(spec.fields.iter().map(|field| &field.name));
    let (head, parts) = (model.head.clone(), model.parts.clone());
    Generation { head, standing: model.standing, trial: model.trial, fits, parts }
}

#[async_trait]
impl Generations for MemoryViews {
    async fn generations(&self, specs: &[&'static ModelSpec]) -> Result<Vec<Generation>> {
        let state = self.state();
        let of = |spec: &&'static ModelSpec| {
            let all = state.generations.get(spec.name).into_iter().flat_map(|all| all.values());
            all.map(|model| generation_of(spec, model)).collect::<Vec<_>>()
        };
        Ok(specs.iter().flat_map(of).collect())
    }

    async fn claim_rebuild(&self, model: &str) -> Result<bool> {
        self.state().rebuilding.insert(model.to_owned());
        Ok(true)
    }

    async fn release_rebuild(&self, model: &str) -> Result<()> {
        self.state().rebuilding.remove(model);
        Ok(())
    }

    async fn build(&self, spec: &'static ModelSpec, at: &Checkpoint, parts: u32, trial: bool) -> Result<Generation> {
        let mut state = self.state();
        let (term, next) = (state.term(spec.name) + 1, state.number(spec.name) + 1);
        let generation = match state.find(spec.name, Standing::Building) {
            Some(building) => building.head.generation,
            None => {
                let mut model = Model::new(spec, next, Standing::Building);
                model.trial = trial;
                model.head.checkpoint = at.clone();
                model.parts = (0..parts).map(|number| Part { number, ..Part::default() }).collect();
                state.insert(spec, model);
                next
            }
        };
        let model = state.generation(spec.name, generation).ok_or_else(|| absent(spec.name, generation))?;
        model.head.term = term;
        Ok(generation_of(spec, model))
    }

    async fn load(&self, load: &Load<'_>) -> Result<()> {
        let mut fresh = Vec::new();
        for StoredRow { key, doc, fields } in load.rows {
            let doc = serde_json::from_str(doc).map_err(|error| Error::rejected(key, error))?;
            fresh.push((key.clone(), select::StoredRow { doc, fields: fields.clone() }));
        }
        let mut state = self.state();
        let model = state.built(load.spec.name, load.generation, load.term).map_err(|_| lost_load(load))?;
        if fresh.iter().any(|(key, _)| model.rows.contains_key(key)) {
            return Err(twice(load.spec.name));
        }
        model.rows.extend(fresh);
        load.parking.iter().for_each(|parking| model.park(parking));
        if let Some(part) = model.parts.iter_mut().find(|part| part.number == load.part.number) {
            *part = load.part.clone();
        }
        Ok(())
    }

    async fn complete(&self, spec: &'static ModelSpec, generation: u64, term: u64) -> Result<()> {
        let mut state = self.state();
        let model = state.built(spec.name, generation, term)?;
        if model.parts.iter().all(|part| part.finished) { Ok(()) } else { Err(not_complete(spec.name, generation)) }
    }

    async fn ready(&self, spec: &'static ModelSpec, generation: u64, term: u64) -> Result<()> {
        self.state().built(spec.name, generation, term)?.standing = Standing::Ready;
        Ok(())
    }

    async fn claim_generation(&self, spec: &'static ModelSpec, generation: u64) -> Result<Option<Claim>> {
        let mut state = self.state();
        let followed = state.generation(spec.name, generation);
        let followed = followed.filter(|model| matches!(model.standing, Standing::Ready | Standing::Standby));
        followed.ok_or_else(|| absent(spec.name, generation))?;
        state.claim(spec, generation).map(Some)
    }

    async fn switch(&self, spec: &'static ModelSpec, generation: u64) -> Result<ModelHead> {
        let mut state = self.state();
        let term = state.term(spec.name) + 1;
        let live = state.live(spec.name)?.head.clone();
        let next = state.generation(spec.name, generation).ok_or_else(|| absent(spec.name, generation))?;
        if next.parts.iter().any(|part| !part.finished) {
            return Err(not_complete(spec.name, generation));
        }
        if goes_back(&next.head.checkpoint, &live.checkpoint) {
            return Err(behind(spec.name, next.head.checkpoint.position, live.checkpoint.position));
        }
        if live.generation == generation {
            return Ok(live);
        }
        next.standing = Standing::Live;
        next.head.term = term;
        let head = next.head.clone();
        if let Some(old) = state.generation(spec.name, live.generation) {
            old.standing = Standing::Standby;
            old.head.term = term;
        }
        if let Some(all) = state.generations.get_mut(spec.name) {
            all.retain(|number, model| model.standing != Standing::Standby || *number == live.generation);
        }
        Ok(head)
    }

    async fn drop_generation(&self, model: &str, generation: u64) -> Result<()> {
        let mut state = self.state();
        match state.generation(model, generation) {
            None => Err(absent(model, generation)),
            Some(found) if found.standing == Standing::Live => Err(is_live(model, generation)),
            Some(_) => {
                if let Some(all) = state.generations.get_mut(model) {
                    all.remove(&generation);
                }
                Ok(())
            }
        }
    }

    async fn set_paused(&self, model: &str, paused: bool) -> Result<bool> {
        let mut state = self.state();
        if !paused {
            return Ok(state.paused.remove(model));
        }
        for followed in [Standing::Live, Standing::Ready, Standing::Standby] {
            let number = state.find(model, followed).map(|found| found.head.generation);
            if let Some(found) = number.and_then(|number| state.generation(model, number)) {
                found.head.term += 1;
            }
        }
        Ok(state.paused.insert(model.to_owned()))
    }

    async fn paused(&self) -> Result<Vec<String>> {
        Ok(self.state().paused.iter().cloned().collect())
    }

    async fn still(&self) -> Result<Box<dyn StillViews>> {
        let state = self.state();
        let all = state
            .generations
            .iter()
            .flat_map(|(model, all)| all.iter().map(|(number, generation)| ((*model, *number), generation.clone())));
        Ok(Box::new(Still(all.collect())))
    }
}

struct Still(HashMap<(&'static str, u64), Arc<Model>>);

impl Still {
    fn model(&self, spec: &ModelSpec, generation: u64) -> Result<&Model> {
        let found = self.0.get(&(spec.name, generation)).map(Arc::as_ref);
        found.ok_or_else(|| absent(spec.name, generation))
    }
}

#[async_trait]
impl StillViews for Still {
    async fn head(&mut self, spec: &'static ModelSpec, generation: u64) -> Result<ModelHead> {
        Ok(self.model(spec, generation)?.head.clone())
    }

    async fn rows(
        &mut self,
        spec: &'static ModelSpec,
        generation: u64,
        after: &str,
        limit: usize,
    ) -> Result<Vec<StoredRow>> {
        let model = self.model(spec, generation)?;
        let fits = generation_of(spec, model).fits;
        let rows = model.rows.range::<str, _>((Bound::Excluded(after), Bound::Unbounded)).take(limit);
        let stored = |(key, row): (&String, &select::StoredRow)| {
            let fields = if fits { row.fields.clone() } else { Vec::new() };
            StoredRow { key: key.clone(), doc: row.doc.to_string(), fields }
        };
        Ok(rows.map(stored).collect())
    }
}
