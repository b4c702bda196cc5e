use super::*;

fn ours() -> Superblock {
    Superblock {
        node: NodeId([7; 16]),
        device: 0,
        device_count: 1,
        bytes: 8 << 20,
        extent_bytes: 64 << 10,
        first_extent_offset: FIRST_EXTENT_OFFSET,
    }
}

/// The first MiB with these two pages in it.
fn head(first: &[u8], copy: &[u8]) -> Vec<u8> {
    let mut head = vec![0; FIRST_EXTENT_OFFSET as usize];
    head[..first.len()].copy_from_slice(first);
    head[SUPERBLOCK_OFFSETS[1] as usize..][..copy.len()].copy_from_slice(copy);
    head
}

fn torn() -> Vec<u8> {
    let mut page = ours().encode();
    page[40] ^= 1;
    page
}

fn newer() -> Vec<u8> {
    let mut page = ours().encode();
    page[8] = 2;
    let crc = crc32fast::hash(&page[..508]);
    page[508..512].copy_from_slice(&crc.to_le_bytes());
    page
}

#[test]
fn every_pair_of_superblock_pages_has_its_verdict() {
    let (sound, torn, newer, blank) = (ours().encode(), torn(), newer(), vec![0; PAGE]);
    let other = Superblock { bytes: 16 << 20, ..ours() }.encode();
    let mut written_over = sound.clone();
    written_over[1024] = 0x53;
    let foreign = vec![0xeb; PAGE];
    let verdicts = [
        (&sound, &sound, Ok(Finding::Sound(ours()))),
        (&sound, &blank, Ok(Finding::Repair(ours(), 1))),
        (&sound, &torn, Ok(Finding::Repair(ours(), 1))),
        (&blank, &sound, Ok(Finding::Repair(ours(), 0))),
        (&torn, &sound, Ok(Finding::Repair(ours(), 0))),
        (&blank, &blank, Ok(Finding::Blank)),
        (&blank, &torn, Ok(Finding::Blank)),
        (&torn, &blank, Err(Refusal::Damaged("neither copy can be read"))),
        (&torn, &torn, Err(Refusal::Damaged("neither copy can be read"))),
        (&sound, &other, Err(Refusal::Damaged("its two copies disagree"))),
        (&newer, &newer, Err(Refusal::Newer(2))),
        (&sound, &newer, Err(Refusal::Newer(2))),
        (&newer, &torn, Err(Refusal::Newer(2))),
        (&foreign, &sound, Err(Refusal::Foreign("the first page"))),
        (&written_over, &sound, Err(Refusal::Foreign("the first page"))),
        (&foreign, &blank, Err(Refusal::Foreign("the first page"))),
        (&sound, &foreign, Err(Refusal::Foreign("the page of the superblock's copy"))),
    ];
    for (number, (first, copy, verdict)) in verdicts.into_iter().enumerate() {
        assert_eq!(judge(&head(first, copy)), verdict, "pair {number}");
    }
}

#[test]
fn a_file_with_anything_in_its_first_mib_is_not_blank() {
    for at in [4096, 64 << 10, (512 << 10) - 1, (512 << 10) + 4096, (1 << 20) - 1] {
        let mut head = head(&[], &[]);
        head[at] = 1;
        assert_eq!(judge(&head), Err(Refusal::Foreign("the first MiB")), "byte {at}");
    }
}

#[test]
fn only_missing_and_blank_files_are_created_or_grown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvme-0.blocks");
    let wanted = || bytes_to_create(&path, 8 << 20).unwrap();
    assert_eq!(wanted(), Some(8 << 20), "missing");
    let file = File::options().create_new(true).write(true).read(true).open(&path).unwrap();
    assert_eq!(wanted(), Some(8 << 20), "empty");
    file.set_len(5000).unwrap();
    assert_eq!(wanted(), Some(8 << 20), "interrupted while it was created");
    file.write_at(&ours().encode(), SUPERBLOCK_OFFSETS[1]).unwrap();
    assert_eq!(wanted(), None, "its copy is there");
    file.set_len(4096).unwrap();
    file.write_at(&ours().encode(), 0).unwrap();
    assert_eq!(wanted(), None, "formatted and truncated");
    file.write_at(&[1; PAGE], 0).unwrap();
    assert_eq!(wanted(), None, "somebody else's");
    assert_eq!(bytes_to_create(Path::new("/dev/null"), 1).unwrap(), None);
}
