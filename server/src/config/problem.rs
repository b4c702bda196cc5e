//! Where a value came from, and what is wrong with it.

use std::path::PathBuf;

/// Who set a value. Later variants win over earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody.
    Preset,
    /// The configuration file.
    File {
        /// Its path.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// `--set` or a flag of its own.
    Flag {
        /// As written.
        flag: String,
    },
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Preset => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment { variable } => f.write_str(variable),
            Self::Flag { flag } => f.write_str(flag),
        }
    }
}

/// One thing that is wrong, told so that it can be put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where to look; nothing when it is not one setting's fault.
    pub origin: Option<Origin>,
    /// What is wrong and what to do.
    pub message: String,
}

impl Problem {
    /// A problem of one value.
    pub fn at(origin: &Origin, message: String) -> Self {
        Self { origin: Some(origin.clone()), message }
    }

    /// A problem of no single value.
    pub fn general(message: String) -> Self {
        Self { origin: None, message }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{origin}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Everything that is wrong, in the order it was found. Never empty when it is an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{problem}")?;
        }
        Ok(())
    }
}
