//! From literals to values: unknown keys are named, the strongest source wins, defaults fill the rest.

use std::collections::{BTreeMap, BTreeSet};

use super::machine::{FileState, Machine};
use super::problem::{Origin, Problem};
use super::sections::{SECTIONS, Section, repeated, settings};
use super::source::Given;
use super::table::{self, Known, Preset, Setting, Values};
use super::unit;
use super::value::{Kind, Literal, Value, Whole};

/// How alike the nearest setting must be to be worth naming; 1 is the same.
const LIKENESS_MIN: f64 = 0.5;

/// All values, and who set each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Resolved {
    /// By path.
    pub(crate) values: Values,
    /// By path; a path that is missing has its default.
    pub(crate) origins: BTreeMap<String, Origin>,
    /// Names in sections of which there are several, in order, by what stands before the name.
    pub(crate) names: BTreeMap<&'static str, Vec<String>>,
}

impl Resolved {
    /// The sections of one kind, by name.
    pub(crate) fn sections<T>(&self, before: &str, read_at: impl Fn(&Values, &str) -> T) -> BTreeMap<String, T> {
        let names = self.names.get(before).into_iter().flatten();
        names.map(|name| (name.clone(), read_at(&self.values, &format!("{before}{name}")))).collect()
    }

    /// Who set a value.
    pub(crate) fn origin(&self, path: &str) -> Origin {
        self.origins.get(path).cloned().unwrap_or(Origin::Preset)
    }
}

/// Resolves every setting. A value that is refused is a problem, and its default stands in, so that the checks that
/// follow still find what else is wrong.
pub(crate) fn resolve(given: Vec<Given>, machine: &dyn Machine, problems: &mut Vec<Problem>) -> Resolved {
    let strongest = strongest(given, problems);
    let mut resolved = Resolved::default();
    for section in SECTIONS {
        let Some(before) = section.repeated() else {
            let rows = section.settings.iter();
            rows.for_each(|row| resolved.resolve_row(row, row.path(), &strongest, machine, problems));
            continue;
        };
        let name = |path: &str| Some(path.strip_prefix(before)?.rsplit_once('.')?.0.to_owned());
        let names: BTreeSet<String> = strongest.keys().filter_map(|path| name(path)).collect();
        for name in names {
            for row in section.settings {
                let path = table::path(&section.named(&name), row.key);
                resolved.resolve_row(row, path, &strongest, machine, problems);
            }
            resolved.names.entry(before).or_default().push(name);
        }
    }
    resolved
}

impl Resolved {
    fn resolve_row(
        &mut self,
        setting: &Setting,
        path: String,
        strongest: &BTreeMap<String, Given>,
        machine: &dyn Machine,
        problems: &mut Vec<Problem>,
    ) {
        let understood = strongest.get(&path).map(|given| understand(setting, given, machine, &self.values));
        let value = match understood {
            Some(Ok(value)) => {
                self.origins.insert(path.clone(), strongest[&path].origin.clone());
                value
            }
            Some(Err(problem)) => {
                problems.push(problem);
                preset(setting, machine, &self.values)
            }
            None => preset(setting, machine, &self.values),
        };
        self.values.put(path, value);
    }
}

/// The winner per path. Sources come weakest first, so the last one stands; the same flag twice is the last one too.
fn strongest(given: Vec<Given>, problems: &mut Vec<Problem>) -> BTreeMap<String, Given> {
    let mut winners = BTreeMap::new();
    for value in given {
        match is_known(&value.path) {
            true => drop(winners.insert(value.path.clone(), value)),
            false => problems.push(Problem::at(&value.origin, unknown(&value))),
        }
    }
    winners
}

fn is_known(path: &str) -> bool {
    let named = |section: &Section| {
        let Some((name, key)) = section.repeated().and_then(|before| path.strip_prefix(before)?.split_once('.')) else {
            return false;
        };
        !name.is_empty() && section.settings.iter().any(|setting| setting.key == key)
    };
    settings().any(|setting| setting.path() == path) || repeated().any(named)
}

fn unknown(value: &Given) -> String {
    let is_section = SECTIONS.iter().any(|section| !section.name.is_empty() && section.name == value.path);
    if is_section {
        let path = &value.path;
        return format!("\"{path}\" is a section, not a setting; write a [{path}] table");
    }
    let section = value.path.split_once('.').map_or("", |(section, _)| section);
    let path = &value.path;
    if let Some(before) = repeated().find_map(|known| known.repeated().filter(|before| path.starts_with(before))) {
        let near = nearest(path).map(|near| format!("; the nearest is \"{near}\"")).unwrap_or_default();
        return format!("unknown setting \"{path}\"; below \"{before}\" come a name and a key{near}");
    }
    let known_section = section.is_empty() || SECTIONS.iter().any(|known| known.name == section);
    let what = if known_section { "setting" } else { "section and setting" };
    match nearest(path) {
        Some(near) => format!("unknown {what} \"{path}\"; the nearest is \"{near}\" (`kvtierd settings` lists all)"),
        None => format!("unknown {what} \"{path}\"; `kvtierd settings` lists all"),
    }
}

/// The most similar path, if any is similar at all. A key that exists in another section counts as near, however its
/// section is called; one of the same section that begins alike counts as nearer.
fn nearest(path: &str) -> Option<String> {
    let key = path.rsplit('.').next().unwrap_or(path);
    let likeness = |setting: &Setting| {
        let whole = strsim::normalized_damerau_levenshtein(path, &setting.path());
        let same_section = path.strip_suffix(key) == setting.path().strip_suffix(setting.key);
        let begins_alike = same_section && (setting.key.starts_with(key) || key.starts_with(setting.key));
        whole
            + match () {
                () if begins_alike => 0.3,
                () if setting.key == key => 0.25,
                () => 0.0,
            }
    };
    let all = SECTIONS.iter().flat_map(|section| section.settings);
    let best = all.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    best.filter(|best| likeness(best) >= LIKENESS_MIN).map(Setting::path)
}

fn understand(setting: &Setting, given: &Given, machine: &dyn Machine, values: &Values) -> Result<Value, Problem> {
    let refused = |why: String| Problem::at(&given.origin, format!("{} = {} {why}", given.path, given.literal));
    let value = setting.kind.parse(&given.literal).map_err(refused)?;
    let value = whole_size(setting, value, machine, values);
    match setting.bound.refuses(setting.kind, &value) {
        None => Ok(value),
        Some(why) => {
            let wrong = setting.wrong;
            Err(refused(format!("{why} ({wrong})")))
        }
    }
}

/// Turns a share of memory or disk into bytes.
fn whole_size(setting: &Setting, value: Value, machine: &dyn Machine, values: &Values) -> Value {
    let (Kind::SizeOf(whole), Value::Share(share)) = (setting.kind, &value) else {
        return value;
    };
    let (all, parts, step) = match whole {
        Whole::Memory => (machine.memory_bytes(), 1, values.find("host.extent_bytes").unwrap_or(unit::MIB)),
        Whole::Disk => {
            let (all, files) = usable_disk(machine, values);
            (all, files, values.find("nvme.extent_bytes").unwrap_or(unit::MIB))
        }
    };
    let bytes = (all as f64 * share) as u64 / parts;
    Value::Size(bytes / step.max(1) * step.max(1))
}

/// Free disk under the first NVMe file, what the files already occupy included; and how many files share it.
fn usable_disk(machine: &dyn Machine, values: &Values) -> (u64, u64) {
    let files: Vec<std::path::PathBuf> = values.find("nvme.files").expect("nvme.files is above nvme.bytes");
    let free = files.first().and_then(|file| machine.disk(file)).map_or(0, |disk| disk.free_bytes);
    let occupied: u64 = files
        .iter()
        .map(|file| match machine.file(file) {
            FileState::File { allocated_bytes, .. } => allocated_bytes,
            FileState::Missing | FileState::Device { .. } | FileState::Unusable => 0,
        })
        .sum();
    (free.saturating_add(occupied), files.len() as u64)
}

fn preset(setting: &Setting, machine: &dyn Machine, values: &Values) -> Value {
    match setting.default {
        Preset::Text(text) => {
            setting.kind.parse(&Literal::Text(text.to_owned())).expect("every default in the table can be read")
        }
        Preset::Computed { compute, .. } => compute(&Known { machine, values }),
    }
}
