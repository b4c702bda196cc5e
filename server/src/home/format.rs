//! The version of everything in a data directory.

use std::path::Path;

use super::{HomeError, write};

/// What this build writes, and the newest it reads.
pub const VERSION: u32 = 1;

const NAME: &str = "FORMAT";
const TITLE: &str = "kvtier data directory";
const REMEDY: &str = "restore it from a backup, or name another data_directory";

/// Whether the directory still has to be made (it is empty, or a crash interrupted the making); an error if it is of
/// another kind or a newer format.
pub(super) fn check(directory: &Path) -> Result<bool, HomeError> {
    let file = directory.join(NAME);
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return unmade(directory).map(|()| true),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            return Err(HomeError::Damaged { file, why: format!("is not a format file; {REMEDY}") });
        }
        Err(error) => return Err(HomeError::io("read", &file)(error)),
    };
    let mut lines = text.lines();
    let title = lines.next() == Some(TITLE);
    let version = lines.next().and_then(|line| line.strip_prefix("version ")).and_then(|text| text.parse::<u32>().ok());
    match version.filter(|_| title) {
        Some(found) if found > VERSION => {
            Err(HomeError::Newer { directory: directory.to_path_buf(), found, known: VERSION })
        }
        Some(found) if found >= 1 => Ok(false),
        Some(_) | None => Err(HomeError::Damaged { file, why: format!("is not a format file; {REMEDY}") }),
    }
}

/// Nothing but what an interrupted making leaves may be in a directory without FORMAT: a wrong path must not be filled.
fn unmade(directory: &Path) -> Result<(), HomeError> {
    let entries = std::fs::read_dir(directory).map_err(HomeError::io("list", directory))?;
    for entry in entries {
        let name = entry.map_err(HomeError::io("list", directory))?.file_name();
        let name = name.to_string_lossy();
        let ours = ["LOCK", "NODE", "SECRET", "lost+found"].contains(&name.as_ref()) || write::is_unfinished(&name);
        if !ours {
            return Err(HomeError::Foreign { directory: directory.to_path_buf(), example: name.into_owned() });
        }
    }
    Ok(())
}

pub(super) fn write(directory: &Path) -> Result<(), HomeError> {
    write::whole(directory, NAME, format!("{TITLE}\nversion {VERSION}\n").as_bytes(), 0o644)
}
