//! `[domain.NAME]`: tenants with host memory of their own.

use super::*;

section! {
    /// A security domain: tenants whose blocks have an arena of their own in host memory, cut out of `host.bytes`. Workers of
    /// these tenants map that arena and nothing else, so they cannot see other tenants' bytes, and room for their blocks is
    /// made by evicting only each other's. A pool in GPU memory (`hbm.bytes`) is cut in the same proportions. NVMe is shared. Write
    /// one table per domain; NAME is 1 to 32 of `a-z 0-9 - _`. Tenants that no domain names share what is left of `host.bytes`: the domain
    /// `node`, to which `local.tenants` applies.
    Domain at "domain.NAME" {
        /// Its tenants. They trust each other: a worker of one can read the blocks of all. A tenant is in one domain at most.
        tenants: Vec<String> = Kind::Names,
            Preset::Computed { compute: |_| Value::Names(Vec::new()), words: "none: it has to be set" }, Bound::NONE,
            wrong "a tenant too many can read, and as a writer damage, what is the others'";
        /// Its share of `host.bytes`, rounded down to whole extents (`host.extent_bytes`). All shares together leave at least
        /// one extent for the tenants that no domain names.
        host_bytes: u64 = Kind::Size,
            Preset::Computed { compute: |_| Value::Size(0), words: "none: it has to be set" },
            Bound::between(MIB, 64 * TIB),
            wrong "too small: its blocks leave before anybody asks for them, whatever is free in the other domains";
        /// User ids that may attach to it besides the daemon's own, instead of `local.users`.
        users: Vec<String> = Kind::Names,
            Preset::Computed { compute: |known| names(known, "local.users"), words: "local.users" }, Bound::NONE,
            wrong "a user that may attach to two domains can say it is of either, and sees the blocks of both";
        /// Group ids whose processes may attach to it, instead of `local.groups`.
        groups: Vec<String> = Kind::Names,
            Preset::Computed { compute: |known| names(known, "local.groups"), words: "local.groups" }, Bound::NONE,
            wrong "a group that may attach to two domains can say it is of either, and sees the blocks of both";
    }
}

fn names(known: &Known<'_>, path: &str) -> Value {
    Value::Names(known.values.find(path).expect("a default looks only at rows above it"))
}
