//! What a setting may hold: kinds, literals as written, and values as understood.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::unit;

/// A value as somebody wrote it, before its setting's kind gives it a meaning.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// A TOML string, or any value from the environment or a flag.
    Text(String),
    /// A TOML number, as written.
    Number(String),
    /// A TOML boolean.
    Flag(bool),
    /// A TOML array of strings.
    List(Vec<String>),
    /// Something no setting takes: what it is, for people.
    Other(&'static str),
}

impl std::fmt::Display for Literal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(text) => f.write_str(text),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::List(items) => write!(f, "{items:?}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// What a share is a share of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// The machine's memory, or the control group's limit if that is lower.
    Memory,
    /// The free space of the file system that holds `nvme.files`, what the files occupy already included.
    Disk,
}

/// The meaning of a setting's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes.
    Size,
    /// Bytes, or a percentage of something.
    SizeOf(Whole),
    /// A span of time.
    Time,
    /// A share of one.
    Percent,
    /// A plain number.
    Count,
    /// `true` or `false`.
    Flag,
    /// Any text.
    Text,
    /// Text, or `off`.
    TextOrOff,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A path.
    Path,
    /// A path, or `off`.
    PathOrOff,
    /// One or more paths.
    Paths,
    /// IP address and port, or `off`.
    AddressOrOff,
    /// Any number of names, also none.
    Names,
}

/// A setting's value, understood.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Bytes.
    Size(u64),
    /// A share of one; of what, says the kind.
    Share(f64),
    /// A span of time.
    Time(Duration),
    /// A plain number.
    Count(u64),
    /// `true` or `false`.
    Flag(bool),
    /// Text, a word of a choice, or nothing.
    Text(Option<String>),
    /// A path, or nothing.
    Path(Option<PathBuf>),
    /// Paths.
    Paths(Vec<PathBuf>),
    /// Where to listen, or nothing.
    Address(Option<SocketAddr>),
    /// Names.
    Names(Vec<String>),
}

/// The word that switches an optional setting off.
pub const OFF: &str = "off";
const ADDRESS_FORMS: &str = "an IP address and a port, such as \"127.0.0.1:7070\" or \"[::]:7070\", or \"off\"";

impl Kind {
    /// How values may be written, for messages and documents.
    pub fn forms(self) -> String {
        match self {
            Self::Size => unit::SIZE_FORMS.to_owned(),
            Self::SizeOf(Whole::Memory) => format!("{}, or a percentage of memory such as \"12.5%\"", unit::SIZE_FORMS),
            Self::SizeOf(Whole::Disk) => format!("{}, or a percentage of free disk such as \"20%\"", unit::SIZE_FORMS),
            Self::Time => unit::DURATION_FORMS.to_owned(),
            Self::Percent => unit::PERCENT_FORMS.to_owned(),
            Self::Count => "a whole number without a unit".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Text => "a text".to_owned(),
            Self::TextOrOff => "a text, or \"off\"".to_owned(),
            Self::Choice(words) => format!("one of {}", quoted(words)),
            Self::Path => "a path".to_owned(),
            Self::PathOrOff => "a path, or \"off\"".to_owned(),
            Self::Paths => "a list of paths, such as [\"a\", \"b\"] (in the environment and flags: a,b)".to_owned(),
            Self::AddressOrOff => ADDRESS_FORMS.to_owned(),
            Self::Names => "a list of names, such as [\"a\", \"b\"] (in the environment and flags: a,b)".to_owned(),
        }
    }

    /// Gives a literal its meaning. The error completes the sentence "`key = literal` …".
    pub fn parse(self, literal: &Literal) -> Result<Value, String> {
        let refused = || format!("is not {}", self.forms());
        if let (Self::Paths, Literal::List(items)) = (self, literal) {
            return paths(items.iter().map(String::as_str)).ok_or_else(refused);
        }
        if let (Self::Names, Literal::List(items)) = (self, literal) {
            return names(items.iter().map(String::as_str)).ok_or_else(refused);
        }
        let text = match literal {
            Literal::Text(text) => text.trim().to_owned(),
            Literal::Number(text) => text.clone(),
            Literal::Flag(flag) if self == Self::Flag => flag.to_string(),
            Literal::Flag(_) | Literal::List(_) | Literal::Other(_) => return Err(refused()),
        };
        self.parse_text(&text, refused)
    }

    fn parse_text(self, text: &str, refused: impl Fn() -> String) -> Result<Value, String> {
        match self {
            Self::Size => unit::parse_size(text).map(Value::Size),
            Self::SizeOf(_) if text.ends_with('%') => unit::parse_percent(text).map(Value::Share),
            Self::SizeOf(_) => unit::parse_size(text).map(Value::Size),
            Self::Time => unit::parse_duration(text).map(Value::Time),
            Self::Percent => unit::parse_percent(text).map(Value::Share),
            Self::Count => parse_count(text).map(Value::Count),
            Self::Flag => text.parse().map(Value::Flag).map_err(|_| refused()),
            Self::Choice(words) => words
                .contains(&text)
                .then(|| Value::Text(Some(text.to_owned())))
                .ok_or_else(|| format!("is not {}", self.forms())),
            Self::Text if text.is_empty() => Err("is empty".to_owned()),
            Self::Text => Ok(Value::Text(Some(text.to_owned()))),
            Self::TextOrOff => Ok(Value::Text(unless_off(text).map(str::to_owned))),
            Self::Path if text.is_empty() => Err("is empty; write a path".to_owned()),
            Self::Path => Ok(Value::Path(Some(PathBuf::from(text)))),
            Self::PathOrOff => Ok(Value::Path(unless_off(text).map(PathBuf::from))),
            Self::Paths => paths(text.split(',')).ok_or_else(refused),
            Self::Names if text.is_empty() => Ok(Value::Names(Vec::new())),
            Self::Names => names(text.split(',')).ok_or_else(refused),
            Self::AddressOrOff => match unless_off(text) {
                None => Ok(Value::Address(None)),
                Some(text) => text.parse().map(|at| Value::Address(Some(at))).map_err(|_| refused()),
            },
        }
    }
}

impl Value {
    /// The value as TOML.
    pub fn show(&self) -> String {
        let text = |text: String| toml::Value::String(text).to_string();
        match self {
            Self::Size(bytes) => text(unit::show_size(*bytes)),
            Self::Share(share) => text(unit::show_percent(*share)),
            Self::Time(time) => text(unit::show_duration(*time)),
            Self::Count(count) => count.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::Text(None) | Self::Path(None) | Self::Address(None) => text(OFF.to_owned()),
            Self::Text(Some(words)) => text(words.clone()),
            Self::Path(Some(path)) => text(path.display().to_string()),
            Self::Address(Some(at)) => text(at.to_string()),
            Self::Paths(paths) => {
                let items: Vec<String> = paths.iter().map(|path| text(path.display().to_string())).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Names(names) => {
                let items: Vec<String> = names.iter().map(|name| text(name.clone())).collect();
                format!("[{}]", items.join(", "))
            }
        }
    }

    /// The number a bound applies to: bytes, nanoseconds or the count itself.
    pub fn magnitude(&self) -> Option<u64> {
        match self {
            Self::Size(bytes) => Some(*bytes),
            Self::Count(count) => Some(*count),
            Self::Time(time) => Some(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
            _ => None,
        }
    }
}

/// A Rust type that a section's field may have.
pub trait FromValue: Sized {
    /// The value, or nothing if the table gave the field another kind: a mistake in this program.
    fn from_value(value: &Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($type:ty: $pattern:pat => $result:expr;)+) => {$(
        impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                match value { $pattern => $result, _ => None }
            }
        }
    )+};
}

from_value! {
    u64: Value::Size(number) | Value::Count(number) => Some(*number);
    Duration: Value::Time(time) => Some(*time);
    f64: Value::Share(share) => Some(*share);
    bool: Value::Flag(flag) => Some(*flag);
    String: Value::Text(text) => text.clone();
    Option<String>: Value::Text(text) => Some(text.clone());
    PathBuf: Value::Path(path) => path.clone();
    Option<PathBuf>: Value::Path(path) => Some(path.clone());
    Vec<PathBuf>: Value::Paths(paths) => Some(paths.clone());
    Vec<String>: Value::Names(names) => Some(names.clone());
    Option<SocketAddr>: Value::Address(at) => Some(*at);
}

/// Declares an enum whose variants are the words of a [`Kind::Choice`].
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_meta])* $variant,)+ }

        impl $name {
            /// The words, in the order of the variants.
            pub const WORDS: &'static [&'static str] = &[$($word),+];
            /// The setting's kind.
            pub(crate) const KIND: $crate::config::value::Kind = $crate::config::value::Kind::Choice(Self::WORDS);

            /// The word for this variant.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl $crate::config::value::FromValue for $name {
            fn from_value(value: &$crate::config::value::Value) -> Option<Self> {
                match value {
                    $($crate::config::value::Value::Text(Some(text)) if text == $word => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}
pub(super) use choice;

fn parse_count(text: &str) -> Result<u64, String> {
    if text.starts_with('-') {
        return Err("is negative; write a whole number without a unit".to_owned());
    }
    text.replace('_', "").parse().map_err(|_| "is not a whole number without a unit".to_owned())
}

fn unless_off(text: &str) -> Option<&str> {
    (!text.is_empty() && text != OFF).then_some(text)
}

fn paths<'a>(items: impl Iterator<Item = &'a str>) -> Option<Value> {
    let paths: Vec<PathBuf> = items.map(|item| PathBuf::from(item.trim())).collect();
    let complete = !paths.is_empty() && paths.iter().all(|path| !path.as_os_str().is_empty());
    complete.then_some(Value::Paths(paths))
}

fn names<'a>(items: impl Iterator<Item = &'a str>) -> Option<Value> {
    let names: Vec<String> = items.map(|item| item.trim().to_owned()).collect();
    names.iter().all(|name| !name.is_empty()).then_some(Value::Names(names))
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}
