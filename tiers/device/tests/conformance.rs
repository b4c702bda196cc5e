//! Every adapter runs the suite of its port.

use std::path::PathBuf;

use kvtier_device::conformance::{DISK_BYTES, DiskStand, FolderStand, block_on, check_disk, check_folder};
use kvtier_device::sim::{Faults, SimDisk, SimFolder, SimWorld};
use kvtier_device::{Disk, DiskSettings, Driver, Folder, LocalDisk, StdFolder, UringProbe, open_disk, probe};
use tempfile::TempDir;

struct LocalStand {
    disk: LocalDisk,
    settings: DiskSettings,
    _folder: TempDir,
}

impl LocalStand {
    fn new(driver: Driver, transfer_bytes_max: u32) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let mut settings = DiskSettings::new(folder.path().join("disk"));
        settings.bytes = Some(DISK_BYTES);
        settings.driver = driver;
        settings.transfer_bytes_max = transfer_bytes_max;
        let disk = open_disk(&settings).expect("a disk");
        Self { disk, settings, _folder: folder }
    }
}

impl DiskStand for LocalStand {
    fn disk(&self) -> &dyn Disk {
        &self.disk
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        block_on(future)
    }

    fn restart(self) -> Self {
        let Self { disk, settings, _folder } = self;
        drop(disk);
        let disk = open_disk(&settings).expect("the disk again");
        Self { disk, settings, _folder }
    }
}

#[test]
fn the_uring_disk_keeps_the_contract() {
    if let UringProbe::Refused(reason) = probe() {
        eprintln!("not run, io_uring is refused here: {reason}");
        return;
    }
    check_disk(|| LocalStand::new(Driver::Uring, 4 << 20));
}

#[test]
fn the_uring_disk_keeps_the_contract_with_short_transfers() {
    if probe() == UringProbe::Usable {
        check_disk(|| LocalStand::new(Driver::Uring, 8192));
    }
}

#[test]
fn the_pool_disk_keeps_the_contract() {
    check_disk(|| LocalStand::new(Driver::Pool, 4 << 20));
}

struct SimStand {
    world: SimWorld,
    disk: SimDisk,
    folder: SimFolder,
}

impl SimStand {
    fn new(faults: Faults, sector_bytes: usize) -> Self {
        let world = SimWorld::new(3, faults);
        world.add_disk("disk", DISK_BYTES, sector_bytes);
        Self::of(world)
    }

    fn of(world: SimWorld) -> Self {
        Self { disk: world.disk("disk"), folder: world.folder("folder"), world }
    }
}

impl DiskStand for SimStand {
    fn disk(&self) -> &dyn Disk {
        &self.disk
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.world.block_on(future)
    }

    fn restart(self) -> Self {
        Self::of(self.world.crash(4))
    }
}

impl FolderStand for SimStand {
    fn folder(&self) -> &dyn Folder {
        &self.folder
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.world.block_on(future)
    }

    fn restart(self) -> Self {
        Self::of(self.world.crash(4))
    }
}

fn stalling() -> Faults {
    Faults { stall_one_in: 3, stall_steps_max: 20, ..Faults::default() }
}

#[test]
fn the_simulated_disk_keeps_the_contract() {
    check_disk(|| SimStand::new(Faults::default(), 4096));
    check_disk(|| SimStand::new(stalling(), 512));
}

#[test]
fn the_simulated_folder_keeps_the_contract() {
    check_folder(|| SimStand::new(Faults::default(), 4096));
    check_folder(|| SimStand::new(stalling(), 4096));
}

struct StdStand {
    folder: StdFolder,
    path: PathBuf,
    _outer: TempDir,
}

impl FolderStand for StdStand {
    fn folder(&self) -> &dyn Folder {
        &self.folder
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        block_on(future)
    }

    fn restart(self) -> Self {
        let folder = StdFolder::open_existing(&self.path).expect("the folder again");
        Self { folder, ..self }
    }
}

#[test]
fn the_std_folder_keeps_the_contract() {
    check_folder(|| {
        let outer = TempDir::new().expect("a temporary folder");
        let path = outer.path().join("a/b");
        let folder = StdFolder::open_or_create(&path).expect("a folder");
        StdStand { folder, path, _outer: outer }
    });
}

/// A suite that passes whatever the disk does would prove nothing.
#[test]
fn the_suites_notice_every_kind_of_fault() {
    let honest = Faults::default;
    let lies = [
        ("misdirected write", Faults { misdirected_write_one_in: 50, ..honest() }),
        ("misdirected read", Faults { misdirected_read_one_in: 50, ..honest() }),
        ("rot", Faults { rot_one_in: 50, ..honest() }),
        ("failed read", Faults { read_error_one_in: 50, ..honest() }),
        ("failed write", Faults { write_error_one_in: 50, ..honest() }),
        ("full disk", Faults { disk_full_one_in: 50, ..honest() }),
        ("lost sync", Faults { lost_sync_one_in: 1, ..honest() }),
        ("failed sync", Faults { sync_error_one_in: 5, ..honest() }),
    ];
    for (name, faults) in lies {
        let outcome = std::panic::catch_unwind(|| check_disk(|| SimStand::new(faults.clone(), 4096)));
        assert!(outcome.is_err(), "{name}: the disk's suite passes");
    }
    let lies = [
        ("rot", Faults { rot_one_in: 50, ..honest() }),
        ("failed write", Faults { write_error_one_in: 50, ..honest() }),
        ("lost sync", Faults { lost_sync_one_in: 1, ..honest() }),
        ("full folder", Faults { folder_bytes_max: Some(20_000), ..honest() }),
    ];
    for (name, faults) in lies {
        let outcome = std::panic::catch_unwind(|| check_folder(|| SimStand::new(faults.clone(), 4096)));
        assert!(outcome.is_err(), "{name}: the folder's suite passes");
    }
}
