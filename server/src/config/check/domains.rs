//! Whether the domains of the host tier fit together.

use std::collections::BTreeMap;

use kvtier_engine::catalog::HOST_DOMAIN_COUNT_MAX;

use super::Check;
use crate::config::{NODE_DOMAIN, unit};

/// Longest name of a domain, in bytes.
const NAME_BYTES_MAX: usize = 32;

impl Check<'_> {
    pub(super) fn domains(&mut self) {
        let names: Vec<&str> = self.config.domains.keys().map(String::as_str).collect();
        for name in &names {
            self.domain(name);
        }
        // The node's own is one of them.
        if names.len() >= HOST_DOMAIN_COUNT_MAX {
            let most = HOST_DOMAIN_COUNT_MAX - 1;
            self.problems.push(super::Problem::general(format!(
                "{} domains are set, there may be {most}; put tenants that trust each other into one",
                names.len()
            )));
        }
        self.domain_tenants();
        self.domain_sizes();
    }

    fn domain(&mut self, name: &str) {
        let domain = &self.config.domains[name];
        let path = |key: &str| format!("domain.{name}.{key}");
        let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        let set = ["tenants", "host_bytes", "users", "groups"].map(path);
        let origin = set.iter().find(|path| self.resolved.origins.contains_key(*path)).unwrap_or(&set[0]).clone();
        if name.len() > NAME_BYTES_MAX || !name.bytes().all(is_good) {
            let rule = format!("a domain's name has 1 to {NAME_BYTES_MAX} of a-z, 0-9, - and _");
            self.tell(&origin, format!("[domain.{name}]: {rule}"));
        }
        if name == NODE_DOMAIN {
            let why = "is the name of what the other domains leave";
            self.tell(&origin, format!("[domain.{name}]: {NODE_DOMAIN:?} {why}; choose another"));
        }
        if domain.tenants.is_empty() {
            self.tell(&origin, format!("{} is not set; name the tenants of the domain, or remove it", set[0]));
        }
        if domain.host_bytes < self.config.host.extent_bytes {
            let (has, least) = (domain.host_bytes, unit::show_size(self.config.host.extent_bytes));
            let has = if has == 0 {
                "is not set".to_owned()
            } else {
                format!("= \"{}\" is too little", unit::show_size(has))
            };
            self.tell(
                &origin,
                format!("{} {has}; a domain has at least one extent (host.extent_bytes), \"{least}\"", set[1]),
            );
        }
        for (path, ids, inherited) in
            [(&set[2], &domain.users, &self.config.local.users), (&set[3], &domain.groups, &self.config.local.groups)]
        {
            // What is inherited was checked where it was written.
            for id in ids.iter().filter(|id| ids != inherited && id.parse::<u32>().is_err()) {
                self.tell(path, format!("{path} names {id:?}, which is no number; write what `id` prints"));
            }
        }
    }

    /// A tenant's blocks are in one place.
    fn domain_tenants(&mut self) {
        let config = self.config;
        let mut homes: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, domain) in &config.domains {
            for tenant in &domain.tenants {
                let path = format!("domain.{name}.tenants");
                match homes.insert(tenant, name) {
                    Some(other) if other == name => {
                        self.tell(&path, format!("{path} names {tenant:?} twice; once is enough"))
                    }
                    Some(other) => {
                        self.tell(
                            &path,
                            format!("{path} names {tenant:?}, which is in domain {other} already; choose one"),
                        );
                    }
                    None => {}
                }
            }
        }
        for tenant in config.local.tenants.iter().filter(|tenant| homes.contains_key(tenant.as_str())) {
            let home = homes[tenant.as_str()];
            let message = format!(
                "local.tenants names {tenant:?}, which is in domain {home}; remove it from one: local.tenants is for tenants without a domain"
            );
            self.tell("local.tenants", message);
        }
    }

    /// The shares come out of `host.bytes`, and something is left.
    fn domain_sizes(&mut self) {
        let host = &self.config.host;
        let Some((name, _)) = self.config.domains.iter().max_by_key(|(_, domain)| domain.host_bytes) else { return };
        let sizes = self.config.domains.values().map(|domain| domain.host_bytes);
        let wanted = sizes.fold(host.extent_bytes, u64::saturating_add);
        if wanted > host.bytes {
            let path = format!("domain.{name}.host_bytes");
            let message = format!(
                "the domains' host_bytes and one extent for everybody else come to {}, host.bytes is {}; lower {path} or raise host.bytes",
                unit::show_size_about(wanted),
                unit::show_size(host.bytes)
            );
            self.tell(&path, message);
        }
    }
}
