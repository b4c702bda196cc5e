//! Words that say nothing, in the names of files, modules and types.

use syn::visit::{self, Visit};

use crate::source::{self, Source};
use crate::{Finding, assert_none};

const FORBIDDEN: &[&str] = &["manager", "handler", "helper", "util", "utility", "common", "info", "data", "misc"];

fn check(source: &Source) -> Vec<Finding> {
    let mut findings: Vec<Finding> = source
        .path
        .split('/')
        .flat_map(|part| forbidden(part.split('.').next().unwrap_or_default()))
        .map(|word| Finding::new(&source.path, format!("\"{word}\" says nothing; name the thing")))
        .collect();
    match syn::parse_file(&source.text) {
        Ok(file) => Walk { path: &source.path, findings: &mut findings }.visit_file(&file),
        Err(error) => findings.push(Finding::new(&source.path, error.to_string())),
    }
    findings
}

/// The forbidden words in a name, in snake case or camel case, singular or plural.
fn forbidden(name: &str) -> Vec<&'static str> {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() {
            words.push(' ');
        }
        words.extend(if letter.is_alphanumeric() { letter.to_lowercase().next() } else { Some(' ') });
    }
    let is = |word: &str| FORBIDDEN.iter().find(|bad| word == **bad || word.strip_suffix('s') == Some(bad)).copied();
    words.split_whitespace().filter_map(is).collect()
}

struct Walk<'a> {
    path: &'a str,
    findings: &'a mut Vec<Finding>,
}

impl Walk<'_> {
    fn name(&mut self, ident: &syn::Ident) {
        for word in forbidden(&ident.to_string()) {
            let at = format!("{}:{}", self.path, ident.span().start().line);
            self.findings.push(Finding::new(at, format!("\"{word}\" in {ident} says nothing; name the thing")));
        }
    }
}

/// Associated types are not visited: a foreign trait chose their names.
impl<'ast> Visit<'ast> for Walk<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.name(&item.ident);
        visit::visit_item_mod(self, item);
    }
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.name(&item.ident);
    }
    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.name(&item.ident);
    }
    fn visit_item_union(&mut self, item: &'ast syn::ItemUnion) {
        self.name(&item.ident);
    }
    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.name(&item.ident);
        visit::visit_item_trait(self, item);
    }
    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.name(&item.ident);
    }
}

#[test]
fn names_say_what_things_are() {
    assert_none(&source::rust().iter().flat_map(check).collect::<Vec<_>>());
}

#[test]
fn empty_words_are_found_in_files_modules_and_types() {
    for (path, text) in [
        ("a/src/lease_manager.rs", ""),
        ("a/src/utils/mod.rs", ""),
        ("a/src/x.rs", "mod helpers {}"),
        ("a/src/x.rs", "struct BlockInfo;"),
        ("a/src/x.rs", "fn f() { enum Data {} }"),
        ("a/src/x.rs", "mod inner { trait PutHandler {} }"),
        ("a/src/x.rs", "type Common = u8;"),
    ] {
        assert_eq!(check(&Source::made_up(path, text)).len(), 1, "{path} {text}");
    }
}

#[test]
fn words_that_only_contain_them_and_names_of_foreign_traits_pass() {
    let text = "struct Database; enum Handled {} impl Connected for X { type ConnectInfo = u8; } fn read_data() {}";
    assert_eq!(check(&Source::made_up("a/src/metadata.rs", text)), []);
}
