//! Reports: a request pinned to log positions, and the attempts at rendering it. The stream is the truth about a job; the
//! queue carries only its id.

mod params;
mod report;

pub use params::{ReportFormat, ReportKind, ReportParams, ReportQueue};
pub use report::{NewReport, Report, ReportCommand, ReportError, ReportEvent, ReportState};
