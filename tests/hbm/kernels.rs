//! The kernels compile, and what is embedded is what they compile to.

use std::process::Command;

#[test]
fn the_kernels_compile_to_the_committed_ptx() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let made = Command::new("make/kernels.sh").arg("--check").current_dir(root).output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
    assert!(made.status.success(), "{said}{complained}");
}

#[test]
fn the_committed_ptx_has_every_kernel_and_is_for_old_drivers() {
    let ptx = include_str!("../../tiers/hbm/kernels/kernels.ptx");
    for kernel in ["kvtier_shuffle_16", "kvtier_shuffle_4", "kvtier_shuffle_1", "kvtier_checksum"] {
        assert!(ptx.contains(&format!(".visible .entry {kernel}(")), "{kernel}");
    }
    assert!(ptx.contains(".version 8.1\n") && ptx.contains(".target sm_80\n"));
    assert!(!ptx.contains(".local "), "no kernel keeps registers in memory");
    let wide = |access: &str| ptx.lines().filter(|line| line.contains(access)).count();
    assert!(wide("ld.v4.u32") >= 4 && wide("st.v4.u32") >= 4, "16 bytes at a time");
}
