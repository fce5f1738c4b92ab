//! Users: who they are to the system, what they may do, and how a login is judged.

pub mod matrix;
mod operations;
mod password;
mod role;
mod user;
mod user_error;
mod user_event;
mod user_name;

#[cfg(test)]
mod tests;

pub use matrix::{Access, Capability};
pub use operations::{Operations, OperationsCommand, OperationsError, OperationsEvent, OperatorAction};
pub use password::{DEMO_PASSWORD, PASSWORD_CHARS_MAX, PASSWORD_CHARS_MIN, PasswordFault, PasswordHash, check_password};
pub use role::Role;
pub use user::{FAILURES_BEFORE_LOCK, LOCK_MINUTES, LoginRefusal, RegisterUser, User, UserCommand, UserStatus};
pub use user_error::UserError;
pub use user_event::{UserDetails, UserEvent};
pub use user_name::{UserNameClaim, UserNameClaimCommand, UserNameClaimError, UserNameClaimEvent, user_name};
