//! One row per setting: the only place that says what settings exist.
//!
//! [`section!`] declares a section once and yields both the struct the daemon reads and the rows that drive parsing,
//! validation, `kvtierd settings` and `docs/operating/settings.md`. The field's doc comment *is* the setting's document.

use std::collections::BTreeMap;

use super::machine::Machine;
use super::unit;
use super::value::{FromValue, Kind, Value};

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its section; empty for the top level.
    pub section: &'static str,
    /// Its key within the section.
    pub key: &'static str,
    /// What its text means.
    pub kind: Kind,
    /// What holds when nobody sets it.
    pub default: Preset,
    /// Which values are refused.
    pub bound: Bound,
    /// What it is for.
    pub doc: &'static str,
    /// What breaks when it is wrong.
    pub wrong: &'static str,
}

/// What holds when nobody sets a setting.
#[derive(Debug, Clone, Copy)]
pub enum Preset {
    /// This text, read like one from the environment.
    Text(&'static str),
    /// Computed from the machine and the settings above it in the table.
    Computed {
        /// How.
        compute: fn(&Known<'_>) -> Value,
        /// The same in words.
        words: &'static str,
    },
}

/// What a computed default may look at.
pub struct Known<'a> {
    /// The machine.
    pub machine: &'a dyn Machine,
    /// Settings above this one in the table.
    pub values: &'a Values,
}

/// Smallest and largest value, both allowed: bytes, nanoseconds or counts. `multiple` must divide the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Smallest.
    pub least: u64,
    /// Largest.
    pub most: u64,
    /// Divisor.
    pub multiple: u64,
}

impl Bound {
    /// No bound.
    pub const NONE: Self = Self { least: 0, most: u64::MAX, multiple: 1 };

    /// From `least` to `most`.
    pub const fn between(least: u64, most: u64) -> Self {
        Self { least, most, multiple: 1 }
    }

    /// The same, for values that must be whole multiples of `multiple`.
    pub const fn multiple_of(self, multiple: u64) -> Self {
        Self { multiple, ..self }
    }

    /// Why `value` is refused, as the end of the sentence "`key = value` …".
    pub fn refuses(self, kind: Kind, value: &Value) -> Option<String> {
        let magnitude = value.magnitude()?;
        if magnitude < self.least {
            return Some(format!("is below the least allowed, {}", show_magnitude(kind, self.least)));
        }
        if magnitude > self.most {
            return Some(format!("is above the most allowed, {}", show_magnitude(kind, self.most)));
        }
        if !magnitude.is_multiple_of(self.multiple) {
            return Some(format!("is not a multiple of {}", show_magnitude(kind, self.multiple)));
        }
        None
    }

    /// For documents: empty when there is no bound.
    pub fn words(self, kind: Kind) -> String {
        let mut words = match (self.least, self.most) {
            (0, u64::MAX) => String::new(),
            (least, u64::MAX) => format!("from {}", show_magnitude(kind, least)),
            (least, most) => format!("{} to {}", show_magnitude(kind, least), show_magnitude(kind, most)),
        };
        if self.multiple > 1 {
            let comma = if words.is_empty() { "" } else { ", " };
            words.push_str(&format!("{comma}a multiple of {}", show_magnitude(kind, self.multiple)));
        }
        words
    }
}

fn show_magnitude(kind: Kind, magnitude: u64) -> String {
    match kind {
        Kind::Size | Kind::SizeOf(_) => unit::show_size(magnitude),
        Kind::Time => unit::show_duration(std::time::Duration::from_nanos(magnitude)),
        _ => magnitude.to_string(),
    }
}

impl Setting {
    /// `section.key`.
    pub fn path(&self) -> String {
        path(self.section, self.key)
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        let key = self.key.to_ascii_uppercase();
        match self.section {
            "" => format!("KVTIER_{key}"),
            section => format!("KVTIER_{}__{key}", section.to_ascii_uppercase().replace('.', "__")),
        }
    }

    /// The doc comment as one text.
    pub fn text(&self) -> String {
        self.doc.lines().map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned()
    }
}

/// `section.key`, or the key alone at the top level.
pub fn path(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// Every setting's value, by path.
#[derive(Debug, Clone, Default)]
pub struct Values(BTreeMap<String, Value>);

impl Values {
    /// Adds or replaces a value.
    pub fn put(&mut self, path: String, value: Value) {
        self.0.insert(path, value);
    }

    /// The value at a path, if it is set and of that type.
    pub fn find<T: FromValue>(&self, path: &str) -> Option<T> {
        self.0.get(path).and_then(T::from_value)
    }

    /// The value at a path.
    pub fn get(&self, path: &str) -> Option<&Value> {
        self.0.get(path)
    }

    /// The value at a path as it will be shown.
    pub fn show(&self, path: &str) -> Option<String> {
        self.0.get(path).map(Value::show)
    }

    /// A field of a section. Table and struct come from one declaration, so the value is there and fits.
    pub fn take<T: FromValue>(&self, section: &str, key: &str) -> T {
        self.find(&path(section, key)).expect("every row of the table has a value of its field's type")
    }
}

/// Declares a section: the struct with its fields, and the table's rows.
macro_rules! section {
    ($(#[doc = $section_doc:literal])+ $name:ident at $section:literal {
        $($(#[doc = $doc:literal])+ $field:ident: $type:ty = $kind:expr, $default:expr, $bound:expr, wrong $wrong:literal;)+
    }) => {
        $(#[doc = $section_doc])+
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name { $($(#[doc = $doc])+ pub $field: $type,)+ }

        impl $name {
            /// What the section is for.
            pub(crate) const DOC: &'static str = concat!($($section_doc, "\n"),+);
            /// The section's rows.
            pub(crate) const SETTINGS: &'static [$crate::config::table::Setting] = &[
                $($crate::config::table::Setting {
                    section: $section,
                    key: stringify!($field),
                    kind: $kind,
                    default: $default,
                    bound: $bound,
                    doc: concat!($($doc, "\n"),+),
                    wrong: $wrong,
                },)+
            ];

            /// Reads the section's fields where the table has them.
            #[allow(dead_code, reason = "sections with a name are read by name")]
            pub(crate) fn read(values: &$crate::config::table::Values) -> Self {
                Self::read_at(values, $section)
            }

            /// Reads the fields of the section at a path.
            pub(crate) fn read_at(values: &$crate::config::table::Values, section: &str) -> Self {
                Self { $($field: values.take(section, stringify!($field)),)+ }
            }
        }
    };
}
pub(super) use section;
