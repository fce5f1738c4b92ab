//! Which page a list request asks for.

use read_models::{Cursor, PageRequest};
use serde::Serialize;
use web::Problem;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Paging {
    limit: usize,
    after: Option<Cursor>,
}

impl Default for Paging {
    fn default() -> Self {
        Self { limit: PageRequest::DEFAULT_LIMIT, after: None }
    }
}

impl Paging {
    pub fn new(limit: Option<usize>, cursor: Option<&str>) -> Result<Self, Problem> {
        let limit = limit.unwrap_or(PageRequest::DEFAULT_LIMIT);
        if !(1..=PageRequest::MAX_LIMIT).contains(&limit) {
            return Err(Problem::validation("/query/limit", "must be between 1 and 1000"));
        }
        let after = cursor
            .map(|text| Cursor::decode(text).ok_or_else(|| Problem::validation("/query/cursor", "is no cursor of ours")))
            .transpose()?;
        Ok(Self { limit, after })
    }

    pub fn request(&self) -> PageRequest {
        PageRequest { limit: self.limit, after: self.after.clone() }
    }
}
