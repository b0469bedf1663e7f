use super::*;

const IDENTITY: Identity = Identity {
    host: HostId(0xF47F_4AA7_602F_3857),
    cell: CellId(0x3B69),
    store: StoreId(0x51),
    created_seconds: 1_436_030_454,
};

#[test]
fn an_identity_survives_its_text() {
    let text = encode(&IDENTITY);
    assert!(text.contains("host 0xF47F4AA7602F3857\n"), "{text}");
    assert_eq!(decode(text.as_bytes()), Ok(IDENTITY));
}

#[test]
fn a_directory_of_the_first_format_has_the_store_id_that_is_its_hosts_number() {
    let body = "skein directory, format 1\nhost 0x00000000000000AB\ncell 0x0000000000000001\n\
                created 2015-07-04T17:20:54Z\n";
    let text = format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()));
    let identity = decode(text.as_bytes()).unwrap();
    assert_eq!((identity.host, identity.store), (HostId(0xAB), StoreId(0xAB)));
}

#[test]
fn a_flip_of_any_bit_and_a_cut_anywhere_are_noticed() {
    let text = encode(&IDENTITY).into_bytes();
    for cut in 0..text.len() {
        assert!(decode(&text[..cut]).is_err(), "cut at {cut}");
    }
    for bit in 0..text.len() * 8 {
        let mut flipped = text.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn a_later_format_is_refused_by_number() {
    let text = encode(&IDENTITY).replace("format 2", "format 7");
    assert_eq!(decode(text.as_bytes()), Err(Undecodable::Newer(7)));
}

#[test]
fn a_new_directory_keeps_the_ids_it_was_given_and_says_so_the_second_time() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("a/b");
    create_directory(&dir).unwrap();
    let lock = Lock::take(&dir).unwrap();
    let (host, cell) = (Some(HostId(1)), Some(CellId(2)));
    let first = initialise(&dir, &lock, host, cell).unwrap();
    assert!(matches!(first, Initialised::New(Identity { host: HostId(1), cell: CellId(2), .. })));
    assert_eq!(initialise(&dir, &lock, host, cell).unwrap(), Initialised::Already(first.identity()));
    assert_eq!(initialise(&dir, &lock, None, None).unwrap(), Initialised::Already(first.identity()));
    let other = initialise(&dir, &lock, Some(HostId(3)), None);
    assert!(matches!(other, Err(HomeError::OtherIds { found, .. }) if found == first.identity()));
}

#[test]
fn ids_that_are_not_given_are_drawn() {
    let draw = || {
        let root = tempfile::tempdir().unwrap();
        let lock = Lock::take(root.path()).unwrap();
        initialise(root.path(), &lock, None, None).unwrap().identity()
    };
    let (a, b) = (draw(), draw());
    assert_ne!(a.host, b.host);
    assert_ne!(a.cell, b.cell);
    assert_ne!(a.store, b.store);
    assert_ne!(a.host.0, a.cell.0);
}

#[test]
fn a_directory_with_foreign_files_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("thesis.tex"), "").unwrap();
    let lock = Lock::take(root.path()).unwrap();
    let refused = initialise(root.path(), &lock, None, None);
    assert!(matches!(refused, Err(HomeError::Foreign { example, .. }) if example == "thesis.tex"));
    assert!(!root.path().join(IDENTITY_FILE).exists());
}

#[test]
fn an_interrupted_init_can_be_repeated() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join(IDENTITY_TEMPORARY), "skein dir").unwrap();
    fs::write(root.path().join("skein.toml"), "").unwrap();
    let lock = Lock::take(root.path()).unwrap();
    assert!(matches!(initialise(root.path(), &lock, None, None), Ok(Initialised::New(_))));
}

#[test]
fn a_locked_directory_is_refused_with_the_holder_until_the_lock_is_dropped() {
    let root = tempfile::tempdir().unwrap();
    let lock = Lock::take(root.path()).unwrap();
    // A second open file description stands in for a second process: flock tells them apart.
    let second = Lock::take(root.path());
    let pid = std::process::id();
    assert!(
        matches!(second, Err(HomeError::InUse { holder: Some(holder), .. }) if holder == pid),
        "{second:?}"
    );
    drop(lock);
    Lock::take(root.path()).unwrap();
}

#[test]
fn a_missing_directory_is_not_initialised_by_looking_at_it() {
    let root = tempfile::tempdir().unwrap();
    let missing = root.path().join("nowhere");
    assert!(matches!(read_identity(&missing), Err(HomeError::NotADirectory { .. })));
    assert!(matches!(Lock::take(&missing), Err(HomeError::NotADirectory { .. })));
    assert!(matches!(read_identity(root.path()), Err(HomeError::NotInitialised { .. })));
}
