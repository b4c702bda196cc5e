//! Opening a directory: is it an index, whole, of this format, of this node, and nobody else's?

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use kvtier_engine::port::IndexError;
use rocksdb::{DB, ErrorKind as RocksKind, Options, WriteBatch};

use crate::columns;
use crate::fault;
use crate::lock::DirectoryLock;
use crate::manifest;
use crate::rebuild;
use crate::settings::IndexSettings;
use crate::{codec, tuning};

/// An open database and what its `meta` says. Fields drop in order: the database closes before the lock goes.
pub(crate) struct Opened {
    pub(crate) db: DB,
    pub(crate) lock: DirectoryLock,
    pub(crate) facts: Facts,
}

/// What `meta` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) format: u32,
    pub(crate) covered: u64,
    pub(crate) node: Option<[u8; 16]>,
}

/// Opens, or creates what was never completely created. A directory that has lost files is refused, not filled up.
pub(crate) fn open(path: &Path, settings: &IndexSettings) -> Result<Opened, IndexError> {
    if let Some(problem) = settings.validate().into_iter().next() {
        return Err(fault::unavailable(path, problem));
    }
    rebuild::refuse_interrupted(path)?;
    fs::create_dir_all(path).map_err(|error| fault::unavailable(path, error))?;
    let lock = DirectoryLock::take(path)?;
    let exists = check_files(path)?;
    let db = DB::open_cf_descriptors(&tuning::database(settings, !exists), path, tuning::descriptors(settings))
        .map_err(|error| explain(path, &error))?;
    if !exists {
        initialise(path, &db, settings.node)?;
    }
    let facts = read_facts(path, &db)?;
    check_node(path, &db, facts, settings.node)?;
    Ok(Opened { db, lock, facts })
}

/// Opens an existing index without changing any file of it.
pub(crate) fn open_read_only(path: &Path) -> Result<Opened, IndexError> {
    rebuild::refuse_interrupted(path)?;
    if !path.is_dir() {
        return Err(fault::unavailable(path, "there is no such directory"));
    }
    let lock = DirectoryLock::take(path)?;
    if !check_files(path)? {
        return Err(fault::unavailable(path, "there is no index here"));
    }
    let settings = IndexSettings::default();
    let options = tuning::database(&settings, false);
    let db = DB::open_cf_descriptors_read_only(&options, path, tuning::descriptors(&settings), false)
        .map_err(|error| explain(path, &error))?;
    let facts = read_facts(path, &db)?;
    Ok(Opened { db, lock, facts })
}

/// Whether there is an index. Creation ends with a flush, so an index always has at least one table file; a directory
/// without one is new, or its creation was cut short. RocksDB itself would take a directory that lost `CURRENT` for new
/// and delete the rest.
fn check_files(path: &Path) -> Result<bool, IndexError> {
    let directory = fs::read_dir(path).map_err(|error| fault::unavailable(path, error))?;
    let mut has_tables = false;
    for file in directory {
        let file = file.map_err(|error| fault::unavailable(path, error))?;
        has_tables |= Path::new(&file.file_name()).extension().is_some_and(|extension| extension == "sst");
    }
    let current = match fs::read(path.join("CURRENT")) {
        Ok(current) => current,
        Err(error) if error.kind() == ErrorKind::NotFound && !has_tables => return Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(fault::corrupt(path, "CURRENT is missing")),
        Err(error) => return Err(fault::unavailable(path, format_args!("CURRENT: {error}"))),
    };
    check_manifest(path, &current)?;
    Ok(has_tables)
}

/// `current` must name a manifest whose records verify.
fn check_manifest(path: &Path, current: &[u8]) -> Result<(), IndexError> {
    let name = std::str::from_utf8(current)
        .ok()
        .and_then(|name| name.strip_suffix('\n'))
        .filter(|name| name.strip_prefix("MANIFEST-").is_some_and(is_number))
        .ok_or_else(|| fault::corrupt(path, "CURRENT does not name a manifest"))?;
    match fs::read(path.join(name)) {
        Ok(bytes) => manifest::verify(&bytes).map_err(|damage| fault::corrupt(path, format_args!("{name}: {damage}"))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(fault::corrupt(path, format_args!("{name}, which CURRENT names, is missing")))
        }
        Err(error) => Err(fault::unavailable(path, format_args!("{name}: {error}"))),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A column family this build does not know means a newer format; RocksDB calls it an invalid argument.
fn explain(path: &Path, error: &rocksdb::Error) -> IndexError {
    if error.kind() != RocksKind::InvalidArgument {
        return fault::opening(path, error);
    }
    let names = DB::list_cf(&Options::default(), path).unwrap_or_default();
    match names.iter().find(|name| !columns::ALL.contains(&name.as_str())) {
        Some(name) => fault::newer(path, format_args!("column family {name}")),
        None => fault::opening(path, error),
    }
}

fn initialise(path: &Path, db: &DB, node: Option<[u8; 16]>) -> Result<(), IndexError> {
    let meta = column(db, columns::META);
    let mut batch = WriteBatch::default();
    batch.put_cf(meta, columns::FORMAT, sealed(columns::FORMAT, &columns::FORMAT_VERSION.to_le_bytes()));
    batch.put_cf(meta, columns::COVERED, sealed(columns::COVERED, &0_u64.to_le_bytes()));
    if let Some(node) = node {
        batch.put_cf(meta, columns::NODE, sealed(columns::NODE, &node));
    }
    write_through(path, db, batch)
}

fn write_through(path: &Path, db: &DB, batch: WriteBatch) -> Result<(), IndexError> {
    db.write_opt(batch, &tuning::write())
        .and_then(|()| db.flush_cfs_opt(&all_columns(db), &tuning::flush()))
        .map_err(|error| fault::running(path, &error))
}

fn read_facts(path: &Path, db: &DB) -> Result<Facts, IndexError> {
    let missing = |name| fault::corrupt(path, format_args!("meta/{name} is missing"));
    let format = read_meta(path, db, columns::FORMAT)?.ok_or_else(|| missing("format"))?;
    let format = u32::from_le_bytes(format);
    if format > columns::FORMAT_VERSION {
        let versions = format_args!("format {format}, this build reads {}", columns::FORMAT_VERSION);
        return Err(fault::newer(path, versions));
    }
    if format < columns::FORMAT_VERSION {
        return Err(fault::corrupt(path, format_args!("there has never been a format {format}")));
    }
    let covered = read_meta(path, db, columns::COVERED)?.ok_or_else(|| missing("covered"))?;
    let node = read_meta(path, db, columns::NODE)?;
    Ok(Facts { format, covered: u64::from_le_bytes(covered), node })
}

fn read_meta<const N: usize>(path: &Path, db: &DB, name: &[u8]) -> Result<Option<[u8; N]>, IndexError> {
    let damaged = |what: &dyn std::fmt::Display| {
        fault::corrupt(path, format_args!("meta/{}: {what}", String::from_utf8_lossy(name)))
    };
    let value = db
        .get_cf_opt(column(db, columns::META), name, &tuning::lookup())
        .map_err(|error| fault::running(path, &error))?;
    let Some(value) = value else { return Ok(None) };
    let payload = codec::unseal(name, &value).map_err(|error| damaged(&error))?;
    payload.try_into().map(Some).map_err(|_| damaged(&format_args!("it has {} bytes", payload.len())))
}

fn check_node(path: &Path, db: &DB, facts: Facts, node: Option<[u8; 16]>) -> Result<(), IndexError> {
    match (facts.node, node) {
        (Some(stored), Some(given)) if stored != given => Err(fault::unavailable(
            path,
            format_args!(
                "the index belongs to node {}, not to {}; put it back where it came from",
                hex(stored),
                hex(given)
            ),
        )),
        (None, Some(given)) => {
            let mut batch = WriteBatch::default();
            batch.put_cf(column(db, columns::META), columns::NODE, sealed(columns::NODE, &given));
            write_through(path, db, batch)
        }
        _ => Ok(()),
    }
}

fn hex(bytes: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(bytes))
}

/// A `meta` value.
pub(crate) fn sealed(name: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut value = payload.to_vec();
    codec::seal(name, &mut value);
    value
}

/// A column family by name.
pub(crate) fn column<'a>(db: &'a DB, name: &str) -> &'a rocksdb::ColumnFamily {
    db.cf_handle(name).expect("every column family was named when the database was opened")
}

/// All column families, for an atomic flush.
pub(crate) fn all_columns(db: &DB) -> Vec<&rocksdb::ColumnFamily> {
    columns::ALL.into_iter().map(|name| column(db, name)).collect()
}
