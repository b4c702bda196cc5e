//! Which tenants may share memory.
//!
//! Tenants of a named domain trust each other, and nobody else can map their arena: they always may. All others share the
//! node's own arena, where whoever attaches can see everybody's bytes: there, attaching and spaces of tenants that are not
//! trusted exclude each other.
//!
//! What was mapped once stays mapped, and what was stored once may still stand in a free slot. So both sides count from the
//! start of the daemon: nothing that ends makes the other possible again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use super::DomainAccess;

/// Who has been here since the start.
#[derive(Debug)]
pub(crate) struct Tenancy {
    /// Domains of the tenants that have one.
    homes: BTreeMap<String, usize>,
    /// Tenants of the node's own domain that trust each other, by setting.
    trusted: Vec<String>,
    seen: Mutex<Seen>,
}

/// Of the node's own domain.
#[derive(Debug, Default)]
struct Seen {
    /// Tenants that have had a space or have attached.
    tenants: BTreeSet<String>,
    /// Somebody has attached.
    is_shared: bool,
}

impl Tenancy {
    pub(crate) fn new(domains: &[DomainAccess]) -> Self {
        let homes = |(domain, access): (usize, &DomainAccess)| {
            access.tenants.iter().map(move |tenant| (tenant.clone(), domain)).collect::<Vec<_>>()
        };
        Self {
            homes: domains.iter().enumerate().skip(1).flat_map(homes).collect(),
            trusted: domains.first().map(|own| own.tenants.clone()).unwrap_or_default(),
            seen: Mutex::default(),
        }
    }

    /// Which arena a tenant's blocks are in.
    pub(crate) fn domain_of(&self, tenant: &str) -> usize {
        self.homes.get(tenant).copied().unwrap_or(0)
    }

    /// Notes a tenant that wants to attach, while these have spaces; or says why it may not.
    pub(crate) fn attach(&self, tenant: &str, with_spaces: impl IntoIterator<Item = String>) -> Result<(), String> {
        if self.homes.contains_key(tenant) {
            return Ok(());
        }
        let mut seen = self.lock();
        seen.tenants.extend(with_spaces.into_iter().filter(|tenant| !self.homes.contains_key(tenant)));
        let stranger = self.stranger(&seen.tenants, tenant);
        if let Some(stranger) = stranger {
            return Err(match stranger == tenant {
                true => format!("tenant {tenant:?} is not in local.tenants, whose members share memory: add it"),
                false => format!(
                    "tenant {stranger:?} has or had blocks in this memory, all of which is shared: if {tenant:?} may see \
                     them, name both in local.tenants; if not, give one of them a [domain.NAME] of its own"
                ),
            });
        }
        seen.tenants.insert(tenant.to_owned());
        seen.is_shared = true;
        Ok(())
    }

    /// Notes a tenant that wants to open a space; or says why it may not.
    pub(crate) fn open_space(&self, tenant: &str) -> Result<(), String> {
        if self.homes.contains_key(tenant) {
            return Ok(());
        }
        let mut seen = self.lock();
        if seen.is_shared && self.stranger(&seen.tenants, tenant).is_some() {
            return Err(format!(
                "workers of other tenants share this node's memory since its start and would see {tenant:?}'s blocks: give \
                 it a [domain.NAME] of its own, name all of them in local.tenants if they may, or set local.socket to off"
            ));
        }
        seen.tenants.insert(tenant.to_owned());
        Ok(())
    }

    /// A tenant that must not share memory with `tenant`.
    fn stranger<'a>(&self, seen: &'a BTreeSet<String>, tenant: &'a str) -> Option<&'a str> {
        let mut all = seen.iter().map(String::as_str).chain([tenant]);
        match self.trusted.is_empty() {
            true => all.find(|other| *other != tenant),
            false => all.find(|other| !self.trusted.iter().any(|trusted| trusted == other)),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("nobody panics while noting a tenant")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(tenants: &[&str]) -> DomainAccess {
        DomainAccess { tenants: tenants.iter().map(|name| (*name).to_owned()).collect(), ..DomainAccess::default() }
    }

    fn tenancy(trusted: &[&str]) -> Tenancy {
        Tenancy::new(&[access(trusted)])
    }

    #[test]
    fn the_only_tenant_of_a_node_may_share_its_memory() {
        let tenancy = tenancy(&[]);
        tenancy.open_space("acme").expect("nobody shares");
        tenancy.attach("acme", ["acme".to_owned()]).expect("nobody else is here");
        tenancy.open_space("acme").expect("its own");
    }

    #[test]
    fn a_second_tenant_and_shared_memory_exclude_each_other() {
        let first_shared = tenancy(&[]);
        first_shared.attach("acme", []).expect("nobody is here");
        assert!(first_shared.open_space("other").expect_err("acme would see it").contains("local.tenants"));
        let two_tenants = tenancy(&[]);
        two_tenants.attach("acme", ["other".to_owned()]).expect_err("other's blocks would be seen");
        let gone_again = tenancy(&[]);
        gone_again.open_space("other").expect("nobody shares");
        gone_again.attach("acme", []).expect_err("other's bytes may still stand in free slots");
    }

    #[test]
    fn tenants_that_are_named_share_and_others_do_not() {
        let tenancy = tenancy(&["acme", "partner"]);
        tenancy.attach("stranger", []).expect_err("not named");
        tenancy.attach("acme", ["partner".to_owned()]).expect("both are named");
        tenancy.open_space("partner").expect("named");
        tenancy.open_space("stranger").expect_err("not named");
    }

    #[test]
    fn a_refused_attachment_keeps_nobody_away() {
        let tenancy = tenancy(&["acme"]);
        tenancy.attach("stranger", []).expect_err("not named");
        tenancy.open_space("another").expect("nothing is shared");
    }

    #[test]
    fn tenants_of_domains_exclude_nobody_and_are_excluded_by_nobody() {
        let tenancy = Tenancy::new(&[access(&[]), access(&["a", "a2"]), access(&["b"])]);
        assert_eq!(["a", "a2", "b", "other"].map(|tenant| tenancy.domain_of(tenant)), [1, 1, 2, 0]);
        let spaces = || ["a", "b", "other"].map(str::to_owned);
        for tenant in ["a", "b", "a2"] {
            tenancy.open_space(tenant).expect("it has a domain");
            tenancy.attach(tenant, spaces()).expect("it has a domain");
        }
        tenancy.attach("other", spaces()).expect("the only one in the node's own domain");
        tenancy.attach("a", spaces()).expect("it has a domain");
        tenancy.open_space("a2").expect("it has a domain");
        tenancy.open_space("more").expect_err("other shares the node's own domain");
        tenancy.attach("more", spaces()).expect_err("other's blocks would be seen");
    }
}
