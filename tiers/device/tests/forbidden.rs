//! What happens where io_uring is forbidden, as some container profiles do.
//!
//! The tests forbid it to their own thread with a seccomp filter; threads they start inherit it, others are not touched.

use kvtier_device::conformance::{DISK_BYTES, block_on};
use kvtier_device::{AlignedBuffer, Disk, DiskOp, DiskSettings, Driver, Priority, UringProbe, open_disk, probe};
use tempfile::TempDir;

/// Makes `io_uring_setup` fail with EPERM for this thread and those it starts, for good.
fn forbid_io_uring() {
    let step = |code: u32, if_true: u8, if_false: u8, value: u32| libc::sock_filter {
        code: code as u16,
        jt: if_true,
        jf: if_false,
        k: value,
    };
    let mut steps = [
        // The number of the system call is the first field of what a filter sees.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: takes integers only.
    let prepared = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(prepared, 0, "no new privileges");
    // SAFETY: `filter` and its steps live during the call.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
    assert_eq!(set, 0, "a seccomp filter");
}

fn settings(folder: &TempDir, driver: Driver) -> DiskSettings {
    let mut settings = DiskSettings::new(folder.path().join("disk"));
    settings.bytes = Some(DISK_BYTES);
    settings.driver = driver;
    settings
}

fn on_a_forbidden_thread(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().spawn(|| {
        forbid_io_uring();
        test();
    });
    thread.expect("a thread").join().expect("the test holds");
}

#[test]
fn a_forbidden_io_uring_is_told_with_its_reason() {
    on_a_forbidden_thread(|| {
        let UringProbe::Refused(reason) = probe() else { panic!("it is forbidden") };
        assert!(reason.contains("forbidden here"), "{reason}");
    });
}

#[test]
fn the_disk_goes_on_with_threads_and_says_why() {
    on_a_forbidden_thread(|| {
        let folder = TempDir::new().expect("a temporary folder");
        let disk = open_disk(&settings(&folder, Driver::Auto)).expect("a disk all the same");
        assert!(disk.mode().starts_with("pool of 16 threads (io_uring is forbidden here"), "{}", disk.mode());
        let page = AlignedBuffer::holding(b"bytes");
        disk.register_arena(page.arena());
        let write = DiskOp::Write { offset: 4096, from: page.disk_buffer() };
        assert_eq!(block_on(disk.submit(vec![write], Priority::Store)), [Ok(())]);
        assert_eq!(block_on(disk.sync()), Ok(()));
        let back = AlignedBuffer::zeroed(4096);
        let read = DiskOp::Read { offset: 4096, into: back.disk_buffer() };
        assert_eq!(block_on(disk.submit(vec![read], Priority::Load)), [Ok(())]);
        assert_eq!(back.copy_out(0, 5), b"bytes");
    });
}

#[test]
fn a_disk_forced_to_io_uring_fails_with_a_remedy() {
    on_a_forbidden_thread(|| {
        let folder = TempDir::new().expect("a temporary folder");
        let error = open_disk(&settings(&folder, Driver::Uring)).err().expect("it is forbidden").to_string();
        assert!(error.contains("forbidden here") && error.contains("set driver = auto"), "{error}");
    });
}
