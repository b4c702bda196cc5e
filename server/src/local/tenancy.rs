//! Which tenants may share memory. There is one arena, so whoever attaches can see everybody's bytes: attaching and
//! spaces of tenants that are not trusted exclude each other.
//!
//! What was mapped once stays mapped, and what was stored once may still stand in a free slot. So both sides count from the
//! start of the daemon: nothing that ends makes the other possible again.

use std::collections::BTreeSet;
use std::sync::Mutex;

/// Who has been here since the start.
#[derive(Debug)]
pub(crate) struct Tenancy {
    /// Tenants that trust each other, by setting.
    trusted: Vec<String>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Tenants that have had a space or have attached.
    tenants: BTreeSet<String>,
    /// Somebody has attached.
    is_shared: bool,
}

impl Tenancy {
    pub(crate) fn new(trusted: Vec<String>) -> Self {
        Self { trusted, seen: Mutex::default() }
    }

    /// Notes a tenant that wants to attach, while these have spaces; or says why it may not.
    pub(crate) fn attach(&self, tenant: &str, with_spaces: impl IntoIterator<Item = String>) -> Result<(), String> {
        let mut seen = self.lock();
        seen.tenants.extend(with_spaces);
        let stranger = self.stranger(&seen.tenants, tenant);
        if let Some(stranger) = stranger {
            return Err(match stranger == tenant {
                true => format!("tenant {tenant:?} is not in local.tenants, whose members share memory: add it"),
                false => format!(
                    "tenant {stranger:?} has or had blocks on this node, and all memory is shared: if {tenant:?} may see \
                     them, name both in local.tenants"
                ),
            });
        }
        seen.tenants.insert(tenant.to_owned());
        seen.is_shared = true;
        Ok(())
    }

    /// Notes a tenant that wants to open a space; or says why it may not.
    pub(crate) fn open_space(&self, tenant: &str) -> Result<(), String> {
        let mut seen = self.lock();
        if seen.is_shared && self.stranger(&seen.tenants, tenant).is_some() {
            return Err(format!(
                "workers of other tenants share this node's memory since its start and would see {tenant:?}'s blocks: name \
                 all of them in local.tenants if they may, or set local.socket to off"
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

    fn tenancy(trusted: &[&str]) -> Tenancy {
        Tenancy::new(trusted.iter().map(|name| (*name).to_owned()).collect())
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
}
