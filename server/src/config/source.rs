//! Where values come from: a TOML file, the environment, and flags; each turned into the same list of literals.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::problem::{Origin, Problem};
use super::sections::{repeated, settings};
use super::value::Literal;

/// Everything that may set a value, before anything is read.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The configuration file, if one was named.
    pub file: Option<PathBuf>,
    /// The environment's variables; only those that begin with `KVTIER_` matter.
    pub environment: Vec<(String, String)>,
    /// Flags as written, with the `section.key` and text each one sets.
    pub flags: Vec<FlagValue>,
}

/// A flag that sets a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagValue {
    /// As written, for messages: `--set host.bytes=4GiB`.
    pub flag: String,
    /// `section.key`.
    pub path: String,
    /// The value's text.
    pub text: String,
}

/// One value somebody wrote.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Given {
    /// `section.key`, not yet known to exist.
    pub(crate) path: String,
    /// As written.
    pub(crate) literal: Literal,
    /// By whom.
    pub(crate) origin: Origin,
}

/// Variables that are no settings, and whose names are therefore fine: the file's name and what the command line
/// client reads.
const OTHER_VARIABLES: &[&str] = &["KVTIER_CONFIG"];
const PREFIX: &str = "KVTIER_";

/// Reads all sources, the weakest first. Problems do not stop the reading.
pub(crate) fn read(sources: &Sources, problems: &mut Vec<Problem>) -> Vec<Given> {
    let mut given = Vec::new();
    if let Some(path) = &sources.file {
        match std::fs::read_to_string(path) {
            Ok(text) => given.extend(read_file(path, &text, problems)),
            Err(error) => problems.push(Problem::general(format!(
                "the configuration file {} cannot be read: {error}; check the path given to --config",
                path.display()
            ))),
        }
    }
    given.extend(sources.environment.iter().filter_map(|(name, text)| read_variable(name, text)));
    given.extend(sources.flags.iter().map(|flag| Given {
        path: flag.path.clone(),
        literal: Literal::Text(flag.text.clone()),
        origin: Origin::Flag { flag: flag.flag.clone() },
    }));
    given
}

/// Reads a TOML text. Syntax errors are problems with a line each; what could be read is still returned.
pub(crate) fn read_file(path: &Path, text: &str, problems: &mut Vec<Problem>) -> Vec<Given> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let origin = |at: usize| Origin::File { path: path.to_path_buf(), line: line_of(text, at) };
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        problems.push(Problem::at(&origin(at), format!("not valid TOML: {}", error.message())));
    }
    let mut given = Vec::new();
    for (key, value) in table.get_ref() {
        match value.get_ref() {
            DeValue::Table(section) => {
                if section.is_empty() && !is_section(key.get_ref()) {
                    let unknown = format!("unknown section [{}]; `kvtierd settings` lists all", key.get_ref());
                    problems.push(Problem::at(&origin(key.span().start), unknown));
                }
                for (inner, value) in section {
                    let path = format!("{}.{}", key.get_ref(), inner.get_ref());
                    match value.get_ref() {
                        DeValue::Table(named) if is_repeated(key.get_ref()) && named.is_empty() => {
                            let empty = format!("[{path}] sets nothing; write its settings below, or remove it");
                            problems.push(Problem::at(&origin(inner.span().start), empty));
                        }
                        DeValue::Table(named) if is_repeated(key.get_ref()) => {
                            given.extend(named.iter().map(|(innermost, value)| Given {
                                path: format!("{path}.{}", innermost.get_ref()),
                                literal: literal(value.get_ref()),
                                origin: origin(innermost.span().start),
                            }));
                        }
                        plain => {
                            given.push(Given { path, literal: literal(plain), origin: origin(inner.span().start) })
                        }
                    }
                }
            }
            plain => given.push(Given {
                path: key.get_ref().to_string(),
                literal: literal(plain),
                origin: origin(key.span().start),
            }),
        }
    }
    given
}

/// Whether there is a section of this name, or there are sections below it. One whose settings are all commented out is fine.
fn is_section(name: &str) -> bool {
    settings().any(|known| known.section == name) || is_repeated(name)
}

/// Whether sections below this name have names of their own.
fn is_repeated(section: &str) -> bool {
    repeated().any(|known| known.repeated().and_then(|before| before.strip_suffix('.')) == Some(section))
}

fn literal(value: &DeValue<'_>) -> Literal {
    match value {
        DeValue::String(text) => Literal::Text(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Literal::Number(number.as_str().to_owned()),
        DeValue::Integer(_) => Literal::Other("a number that is not decimal"),
        DeValue::Float(number) => Literal::Number(number.as_str().to_owned()),
        DeValue::Boolean(flag) => Literal::Flag(*flag),
        DeValue::Datetime(_) => Literal::Other("a date"),
        DeValue::Table(_) => Literal::Other("a table"),
        DeValue::Array(items) => {
            let texts: Option<Vec<String>> =
                items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect();
            texts.map_or(Literal::Other("a list that holds more than texts"), Literal::List)
        }
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

/// `KVTIER_HOST__BYTES` sets `host.bytes`, `KVTIER_DOMAIN__A__TENANTS` `domain.a.tenants`; `KVTIER_DATA_DIRECTORY` sets
/// `data_directory`. A name with a double
/// underscore is always meant as a setting; one without is left alone unless it looks like a misspelt setting,
/// because other programs of the project read variables of their own.
fn read_variable(name: &str, text: &str) -> Option<Given> {
    let rest = name.strip_prefix(PREFIX)?;
    if OTHER_VARIABLES.contains(&name) {
        return None;
    }
    let path = match rest.split_once("__") {
        Some((section, key)) => format!("{section}.{}", key.replace("__", ".")).to_ascii_lowercase(),
        None => {
            let key = rest.to_ascii_lowercase();
            let meant =
                settings().any(|known| known.section.is_empty() && strsim::damerau_levenshtein(known.key, &key) <= 2);
            meant.then_some(key)?
        }
    };
    let origin = Origin::Environment { variable: name.to_owned() };
    Some(Given { path, literal: Literal::Text(text.to_owned()), origin })
}
