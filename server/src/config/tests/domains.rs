use super::*;

const GOOD: &str = r#"
[host]
bytes = "4GiB"
[local]
users = ["7"]
[domain.acme]
tenants = ["acme", "acme-labs"]
host_bytes = "1GiB"
groups = ["100"]
[domain.bank]
tenants = ["bank"]
host_bytes = "512MiB"
users = []
"#;

#[test]
fn domains_are_read_by_name_and_inherit_who_may_attach() {
    let (_folder, sources) = file(GOOD);
    let config = Config::load(&sources, false, &machine()).unwrap();
    assert_eq!(config.domains.keys().collect::<Vec<_>>(), ["acme", "bank"]);
    let (acme, bank) = (&config.domains["acme"], &config.domains["bank"]);
    assert_eq!((&acme.tenants[..], acme.host_bytes), (&["acme".to_owned(), "acme-labs".to_owned()][..], GIB));
    assert_eq!((&acme.users[..], &acme.groups[..]), (&["7".to_owned()][..], &["100".to_owned()][..]));
    assert!(bank.users.is_empty() && bank.groups.is_empty(), "its own list stands instead of the node's");
}

#[test]
fn without_domains_the_whole_tier_is_one_arena() {
    let config = Config::load(&Sources::default(), false, &machine()).unwrap();
    assert!(config.domains.is_empty());
    let arenas = crate::assemble::arena_settings(&config);
    assert_eq!(arenas.iter().map(|arena| arena.bytes).collect::<Vec<_>>(), [config.host.bytes]);
}

#[test]
fn arenas_are_whole_extents_of_what_each_domain_was_given() {
    let (_folder, mut sources) = file(GOOD);
    sources.flags = flags(&[("domain.bank.host_bytes", "500MiB")]).flags;
    let config = Config::load(&sources, false, &machine()).unwrap();
    let arenas: Vec<u64> = crate::assemble::arena_settings(&config).iter().map(|arena| arena.bytes / MIB).collect();
    assert_eq!(arenas, [4096 - 1024 - 480, 1024, 480]);
}

#[test]
fn flags_and_the_environment_set_domains_too() {
    let (_folder, mut sources) = file(GOOD);
    let variable = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    sources.environment = vec![
        variable("KVTIER_DOMAIN__ACME__HOST_BYTES", "64MiB"),
        variable("KVTIER_DOMAIN__THIRD__TENANTS", "x,y"),
        variable("KVTIER_DOMAIN__THIRD__HOST_BYTES", "32MiB"),
    ];
    sources.flags = flags(&[("domain.acme.tenants", "only")]).flags;
    let reading = Config::read(&sources, false, &machine());
    assert_eq!(reading.problems, []);
    assert_eq!((reading.config.domains["acme"].host_bytes, reading.config.domains.len()), (64 * MIB, 3));
    assert_eq!(reading.config.domains["acme"].tenants, ["only"]);
    assert_eq!(reading.origin("domain.acme.tenants").to_string(), "--set domain.acme.tenants=only");
}

#[test]
fn settings_of_domains_print_and_read_back_the_same() {
    let (_folder, sources) = file(GOOD);
    let reading = Config::read(&sources, false, &machine());
    let (_folder, printed) = file(&print::toml(&reading));
    let again = Config::read(&printed, false, &machine());
    assert_eq!(again.problems, []);
    assert_eq!(again.config, reading.config);
}

#[test]
fn settings_without_domains_show_how_one_is_written() {
    let reading = Config::read(&Sources::default(), false, &machine());
    let printed = print::toml(&reading);
    assert!(printed.contains("\n# [domain.NAME]\n") && printed.contains("\n# host_bytes = "), "{printed}");
    let (_folder, sources) = file(&printed);
    assert_eq!(Config::read(&sources, false, &machine()).config, reading.config);
}

#[test]
fn what_is_wrong_with_a_domain_is_told_with_its_setting_and_a_remedy() {
    let good = [("domain.a.tenants", "a"), ("domain.a.host_bytes", "64MiB")];
    for (more, needles) in [
        (vec![("domain.a.tenants", "")], vec!["domain.a.tenants is not set"]),
        (vec![("domain.a.host_bytes", "16MiB")], vec!["domain.a.host_bytes", "one extent", "32MiB"]),
        (vec![("domain.a.host_bytes", "2GiB")], vec!["domain.a.host_bytes", "host.bytes"]),
        (vec![("domain.b.tenants", "b")], vec!["domain.b.host_bytes is not set"]),
        (vec![("domain.b.host_bytes", "64MiB")], vec!["domain.b.tenants is not set"]),
        (
            vec![("domain.b.tenants", "b,a"), ("domain.b.host_bytes", "64MiB")],
            vec!["domain.b.tenants names \"a\"", "domain a"],
        ),
        (vec![("domain.a.tenants", "a,a")], vec!["twice"]),
        (vec![("local.tenants", "a")], vec!["local.tenants names \"a\"", "domain a"]),
        (vec![("domain.a.users", "root")], vec!["domain.a.users", "no number"]),
        (vec![("local.groups", "wheel")], vec!["local.groups", "no number"]),
        (vec![("domain.node.tenants", "x"), ("domain.node.host_bytes", "64MiB")], vec!["\"node\"", "choose another"]),
        (vec![("domain.A!.tenants", "x"), ("domain.A!.host_bytes", "64MiB")], vec!["a-z"]),
        (vec![("domain.a.host_byte", "1GiB")], vec!["unknown setting \"domain.a.host_byte\"", "a name and a key"]),
        (vec![("domain.tenants", "a")], vec!["unknown setting \"domain.tenants\"", "a name and a key"]),
    ] {
        let all: Vec<_> = good.iter().copied().chain(more).collect();
        let told = one_problem(&flags(&all), &machine());
        assert!(needles.iter().all(|needle| told.contains(needle)), "{needles:?}: {told}");
    }
}

#[test]
fn all_problems_of_all_domains_are_told_at_once() {
    let text = "[domain.a]\ntenants = [\"x\"]\nhost_bytes = \"1\"\n[domain.b]\ntenants = [\"x\"]\nhost_bytes = \"64MiB\"\n\
                users = [\"me\"]\n";
    let (_folder, sources) = file(text);
    let told = problems(&sources, &machine());
    for needle in [":3: domain.a.host_bytes", "names \"x\", which is in domain a", ":7: domain.b.users"] {
        assert!(told.iter().any(|problem| problem.contains(needle)), "{needle}: {told:#?}");
    }
}

#[test]
fn there_is_a_bound_on_domains() {
    let domains: String =
        (0..64).map(|at| format!("[domain.d{at}]\ntenants = [\"t{at}\"]\nhost_bytes = \"32MiB\"\n")).collect();
    let (_folder, sources) = file(&format!("[host]\nbytes = \"4GiB\"\n{domains}"));
    let told = one_problem(&sources, &machine());
    assert!(told.contains("64 domains are set, there may be 63"), "{told}");
}
