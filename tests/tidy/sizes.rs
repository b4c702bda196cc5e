//! How long files and functions may be. Counted are production lines: not blank, not comment, not test.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::ratchet::{self, Ratchet};
use crate::source::{self, Source};
use crate::{Finding, assert_none};

const FILE_LINES_MAX: usize = 800;
const FILE_LINES_P90: usize = 500;
const FILE_LINES_MEDIAN: usize = 200;
const FUNCTION_LINES_MAX: usize = 70;

/// What was measured of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Measure {
    path: String,
    lines: usize,
    /// `path::function` and lines.
    functions: Vec<(String, usize)>,
}

fn measure(source: &Source) -> Result<Measure, Finding> {
    let file = syn::parse_file(&source.text).map_err(|error| Finding::new(&source.path, error.to_string()))?;
    let code = code_lines(&source.text);
    let mut walk = Walk { path: &source.path, code: &code, tests: Vec::new(), functions: Vec::new() };
    walk.visit_file(&file);
    let in_test = |line: usize| walk.tests.iter().any(|(first, last)| (*first..=*last).contains(&line));
    let lines = (1..=code.len()).filter(|line| code[line - 1] && !in_test(*line)).count();
    Ok(Measure { path: source.path.clone(), lines, functions: walk.functions })
}

/// Which lines carry code: line n is at n-1.
fn code_lines(text: &str) -> Vec<bool> {
    let mut carries = vec![false; text.lines().count()];
    let tokens = crate::tokens::tokens(text).unwrap_or_default();
    for token in tokens.iter().filter(|token| !token.text.is_empty()) {
        if let Some(line) = carries.get_mut(token.line - 1) {
            *line = true;
        }
    }
    // Doc comments lex as attributes, so their lines are taken out again.
    for (carry, line) in carries.iter_mut().zip(text.lines()) {
        let line = line.trim_start();
        *carry = *carry && !line.starts_with("//");
    }
    carries
}

struct Walk<'a> {
    path: &'a str,
    code: &'a [bool],
    tests: Vec<(usize, usize)>,
    functions: Vec<(String, usize)>,
}

impl Walk<'_> {
    fn function(&mut self, name: &syn::Ident, whole: proc_macro2::Span) {
        let (first, last) = (whole.start().line, whole.end().line);
        let lines = self.code[first - 1..last].iter().filter(|carries| **carries).count();
        self.functions.push((format!("{}::{name}", self.path), lines));
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let name = attribute.path().segments.last().map(|segment| segment.ident.to_string());
        let words = attribute.meta.require_list().map(|list| list.tokens.to_string()).unwrap_or_default();
        name.as_deref() == Some("test") || (name.as_deref() == Some("cfg") && words == "test")
    })
}

impl<'ast> Visit<'ast> for Walk<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if is_test(&item.attrs) {
            let span = item.span();
            self.tests.push((span.start().line, span.end().line));
            return;
        }
        visit::visit_item_mod(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if is_test(&item.attrs) {
            let span = item.span();
            self.tests.push((span.start().line, span.end().line));
            return;
        }
        self.function(&item.sig.ident, item.span());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig.ident, item.span());
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.function(&item.sig.ident, item.span());
        visit::visit_trait_item_fn(self, item);
    }
}

/// Compares with the limits and the ratchet. An exception that is no longer needed, or larger than needed, is a
/// finding too: that is what makes it a ratchet.
fn check(measures: &[Measure], ratchet: &Ratchet) -> Vec<Finding> {
    let mut findings = Vec::new();
    for measure in measures {
        let allowed = ratchet.file_lines.get(&measure.path).copied();
        over(&mut findings, "file_lines", &measure.path, measure.lines, FILE_LINES_MAX, allowed);
        for (name, lines) in &measure.functions {
            let allowed = ratchet.function_lines.get(name).copied();
            over(&mut findings, "function_lines", name, *lines, FUNCTION_LINES_MAX, allowed);
        }
    }
    let functions = || measures.iter().flat_map(|measure| &measure.functions);
    let gone_files = ratchet.file_lines.keys().filter(|path| !measures.iter().any(|measure| measure.path == **path));
    let gone_functions = ratchet.function_lines.keys().filter(|path| !functions().any(|(name, _)| name == *path));
    for gone in gone_files.chain(gone_functions) {
        findings.push(Finding::new(gone, "does not exist; take it out of tests/tidy/ratchet.toml"));
    }
    findings
}

fn over(findings: &mut Vec<Finding>, table: &str, at: &str, lines: usize, limit: usize, allowed: Option<usize>) {
    let what = match allowed {
        None if lines > limit => format!("has {lines} lines, at most {limit} are allowed; make it smaller"),
        Some(allowed) if lines > allowed => format!("has grown from {allowed} to {lines} lines; make it smaller"),
        Some(_) if lines <= limit => format!("needs no exception any more; take it out of [{table}] in ratchet.toml"),
        Some(allowed) if lines < allowed => {
            format!("has shrunk: lower its number in [{table}] of ratchet.toml to {lines}")
        }
        None | Some(_) => return,
    };
    findings.push(Finding::new(at, what));
}

/// The value below which `percent` of the files lie.
fn percentile(measures: &[Measure], percent: usize) -> usize {
    let mut lines: Vec<usize> = measures.iter().map(|measure| measure.lines).collect();
    lines.sort_unstable();
    lines.get((lines.len() * percent / 100).min(lines.len().saturating_sub(1))).copied().unwrap_or(0)
}

fn check_spread(measures: &[Measure]) -> Vec<Finding> {
    [(50, FILE_LINES_MEDIAN), (90, FILE_LINES_P90)]
        .into_iter()
        .map(|(percent, limit)| (percent, limit, percentile(measures, percent)))
        .filter(|(_, limit, lines)| lines > limit)
        .map(|(percent, limit, lines)| {
            Finding::new(
                "workspace",
                format!("{percent} % of the files have up to {lines} lines, at most {limit} are allowed"),
            )
        })
        .collect()
}

fn production() -> Vec<Measure> {
    let sources = source::rust().into_iter().filter(|source| !source.is_test());
    sources.map(|source| measure(&source).unwrap_or_else(|finding| panic!("{finding:?}"))).collect()
}

#[test]
fn files_and_functions_are_small() {
    assert_none(&check(&production(), &ratchet::committed()));
}

#[test]
fn most_files_are_small() {
    assert_none(&check_spread(&production()));
}

#[cfg(test)]
fn long_function(name: &str, lines: usize) -> String {
    format!("fn {name}() {{\n{}}}\n", "    work();\n".repeat(lines - 2))
}

#[test]
fn a_long_function_and_a_long_file_are_found_wherever_they_hide() {
    let text = format!("impl X {{ mod_free!(); }}\nmod inner {{\n{}}}\n", long_function("deep", 71));
    let found = check(&[measure(&Source::made_up("a.rs", &text)).unwrap()], &Ratchet::default());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].at.ends_with("::deep"));

    let text = long_function("f", 70).repeat(12);
    let measured = measure(&Source::made_up("a.rs", &text)).unwrap();
    assert_eq!(measured.lines, 840);
    assert_eq!(check(&[measured], &Ratchet::default()).len(), 1);
}

#[test]
fn tests_comments_and_blank_lines_do_not_count() {
    let tests =
        format!("#[cfg(test)]\nmod tests {{\n{}}}\n#[test]\n{}", long_function("t", 90), long_function("u", 90));
    let text = format!("//! Doc.\n\n/// Doc.\nfn f() {{\n    // why\n\n    work();\n}}\n{tests}");
    let measured = measure(&Source::made_up("a.rs", &text)).unwrap();
    assert_eq!(measured.lines, 3);
    assert_eq!(measured.functions, [("a.rs::f".to_owned(), 3)]);
}

#[test]
fn the_ratchet_turns_one_way_only() {
    let measured = |lines| vec![Measure { path: "a.rs".to_owned(), lines, functions: Vec::new() }];
    let ratchet = Ratchet { file_lines: [("a.rs".to_owned(), 900)].into(), ..Ratchet::default() };
    assert_eq!(check(&measured(900), &ratchet), []);
    for lines in [901, 899, 700] {
        assert_eq!(check(&measured(lines), &ratchet).len(), 1, "{lines}");
    }
    assert_eq!(check(&[], &ratchet).len(), 1);
}

#[test]
fn a_workspace_of_middling_files_is_found() {
    let measured = |lines: usize| Measure { path: lines.to_string(), lines, functions: Vec::new() };
    assert_eq!(check_spread(&[measured(100), measured(201), measured(202)]).len(), 1);
    let mut many = vec![measured(10); 80];
    many.extend(vec![measured(501); 20]);
    assert_eq!(check_spread(&many).len(), 1);
}
