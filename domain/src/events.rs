//! What every event enum implements the same way.

/// Implements `DomainEvent`, `NAMES` and `VERSIONS` for an event enum whose variants it lists: type = variant name, version "1"
/// unless it says another (`UnitListed = "2"`; then `upcast` needs a step from the old one).
macro_rules! event_names {
    ($event:ident: $($variant:ident $(= $version:literal)?),+ $(,)?) => {
        impl $event {
            /// Every stored `event_type` of this aggregate.
            pub const NAMES: &[&str] = &[$(stringify!($variant)),+];
            /// The version in which this build writes each of [`Self::NAMES`].
            pub const VERSIONS: &[&str] = &[$($crate::events::event_names!(@version $($version)?)),+];

            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant { .. } => stringify!($variant)),+ }
            }
        }

        impl cqrs_es::DomainEvent for $event {
            fn event_type(&self) -> String {
                self.name().to_owned()
            }

            fn event_version(&self) -> String {
                match self { $(Self::$variant { .. } => $crate::events::event_names!(@version $($version)?)),+ }.to_owned()
            }
        }
    };
    (@version) => { "1" };
    (@version $version:literal) => { $version };
}

pub(crate) use event_names;
