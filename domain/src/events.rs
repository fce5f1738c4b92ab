//! What every event enum implements the same way.

/// Implements `DomainEvent` (type = variant name, version "1") and `NAMES` for an event enum whose variants it lists.
macro_rules! event_names {
    ($event:ident: $($variant:ident),+ $(,)?) => {
        impl $event {
            /// Every stored `event_type` of this aggregate.
            pub const NAMES: &[&str] = &[$(stringify!($variant)),+];

            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant { .. } => stringify!($variant)),+ }
            }
        }

        impl cqrs_es::DomainEvent for $event {
            fn event_type(&self) -> String {
                self.name().to_owned()
            }

            fn event_version(&self) -> String {
                "1".to_owned()
            }
        }
    };
}

pub(crate) use event_names;
