//! Flipped bits and cut files, everywhere.

use super::*;
use std::path::PathBuf;

/// A store with several tables in each tree, in the first level and in the last; and what it holds.
fn store(dir: &Path) -> [Entries; 4] {
    let engine = open(dir);
    for round in 1..5 {
        engine.write(batch(round), round).unwrap();
        engine.checkpoint().unwrap();
        if round == 2 {
            for keyspace in Keyspace::ALL {
                engine.compact(keyspace).unwrap();
            }
        }
    }
    everything(&engine).unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, target).unwrap();
    }
}

/// Opens the store and reads all of it, twice; every answer is right, or an error that names `file` or its tree.
/// Whatever was read, a check of all files names the file.
fn right_or_refused(dir: &Path, file: &Path, expected: &[Entries; 4], what: &str) {
    let names_it = |error: EngineError| match error {
        EngineError::Damaged { what: blamed, .. } => {
            let tree = dir.join(file.strip_prefix(dir).unwrap().components().next().unwrap());
            let blamed = Path::new(&blamed);
            assert!(blamed == file || blamed.starts_with(&tree), "{what}: blamed {}", blamed.display());
        }
        other => panic!("{what}: {other:?}"),
    };
    let engine = match LsmEngine::open(dir, quiet()) {
        Ok(engine) => engine,
        Err(error) => return names_it(error),
    };
    let report = engine.verify().unwrap();
    let blamed: Vec<&str> = report.damaged.iter().map(|damage| damage.what.as_str()).collect();
    assert_eq!(blamed, [file.to_str().unwrap()], "{what}: a check of all files");
    for keyspace in Keyspace::ALL {
        let slot = keyspace.slot();
        match entries(&*engine.view().unwrap(), keyspace) {
            Ok(found) => assert_eq!(found, expected[slot], "{what}: scan of {keyspace}"),
            Err(error) => names_it(error),
        }
        for n in 0..50 {
            let key = format!("key {n}");
            match engine.get(keyspace, key.as_bytes()) {
                Ok(found) => assert_eq!(
                    found.as_ref(),
                    expected[slot].get(key.as_bytes()),
                    "{what}: {key} of {keyspace}"
                ),
                Err(error) => names_it(error),
            }
        }
        match engine.compact(keyspace) {
            Ok(()) => {}
            Err(error) => names_it(error),
        }
        match entries(&*engine.view().unwrap(), keyspace) {
            Ok(found) => assert_eq!(found, expected[slot], "{what}: {keyspace} after a compaction"),
            Err(error) => names_it(error),
        }
    }
}

/// Numbers that are the same every time.
fn dice(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    }
}

/// Does something to each file in turn, in a fresh copy each time.
fn in_every_file(times: usize, mut harm: impl FnMut(&mut Vec<u8>, usize) -> String) {
    let original = tempfile::tempdir().unwrap();
    let expected = store(original.path());
    for file in files(original.path()) {
        for n in 0..times {
            let dir = tempfile::tempdir().unwrap();
            copy(original.path(), dir.path());
            let target = dir.path().join(file.strip_prefix(original.path()).unwrap());
            let mut bytes = std::fs::read(&target).unwrap();
            let what = harm(&mut bytes, n);
            std::fs::write(&target, bytes).unwrap();
            right_or_refused(dir.path(), &target, &expected, &format!("{what} of {}", target.display()));
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let mut dice = dice(1);
    in_every_file(24, |bytes, n| {
        // Ends are dense with lengths and pointers, so half of the flips go there.
        let at = if n % 2 == 0 { dice(bytes.len()) } else { bytes.len() - 1 - dice(bytes.len().min(200)) };
        let bit = dice(8);
        bytes[at] ^= 1 << bit;
        format!("bit {bit} of byte {at}")
    });
}

#[test]
fn a_file_cut_short_is_noticed() {
    let mut dice = dice(2);
    in_every_file(6, |bytes, n| {
        let to = if n == 0 { 0 } else { dice(bytes.len()) };
        bytes.truncate(to);
        format!("cut to {to} bytes")
    });
}

#[test]
fn a_file_that_is_missing_is_noticed() {
    let original = tempfile::tempdir().unwrap();
    store(original.path());
    for file in files(original.path()) {
        let dir = tempfile::tempdir().unwrap();
        copy(original.path(), dir.path());
        let target = dir.path().join(file.strip_prefix(original.path()).unwrap());
        std::fs::remove_file(&target).unwrap();
        let error = LsmEngine::open(dir.path(), quiet()).map(|_| ()).unwrap_err();
        assert!(matches!(error, EngineError::Damaged { .. }), "{}: {error:?}", target.display());
    }
}

#[test]
fn an_unharmed_store_passes_the_check() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path());
    let report = open(dir.path()).verify().unwrap();
    assert_eq!(report.damaged, []);
    assert_eq!(report.files, files(dir.path()).len(), "every file was looked at");
    let bytes: u64 = files(dir.path()).iter().map(|file| file.metadata().unwrap().len()).sum();
    assert_eq!(report.bytes, bytes);
}

#[test]
fn a_newer_format_is_refused_with_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path());
    let marker = dir.path().join("STORE");
    let mut bytes = std::fs::read(&marker).unwrap();
    bytes[8] = 7;
    let sum = crc32c::crc32c(&bytes[..12]);
    bytes[12..].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(&marker, bytes).unwrap();
    let refused = LsmEngine::open(dir.path(), quiet()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, EngineError::NewerFormat { found: 7, supported: 1, .. }), "{refused:?}");
}

#[test]
fn what_a_crash_left_half_written_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let expected = store(dir.path());
    std::fs::write(dir.path().join("head/tables/9999"), b"half a table").unwrap();
    std::fs::write(dir.path().join("head/v9999"), b"half a list").unwrap();
    std::fs::write(dir.path().join("STORE.new"), b"half").unwrap();
    let engine = open(dir.path());
    assert_eq!(everything(&engine).unwrap(), expected);
    assert!(!dir.path().join("head/tables/9999").exists(), "it was removed");
}

#[test]
fn asking_whether_a_store_is_there_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    assert!(LsmEngine::is_there(dir.path()).unwrap());
    std::fs::remove_file(dir.path().join("STORE")).unwrap();
    let before = files(dir.path());
    assert!(!LsmEngine::is_there(dir.path()).unwrap());
    assert_eq!(files(dir.path()), before);
    store(dir.path());
    std::fs::remove_file(dir.path().join("STORE")).unwrap();
    assert!(LsmEngine::is_there(dir.path()).is_err(), "there are tables");
}

#[test]
fn a_creation_cut_short_is_begun_again() {
    let whole = tempfile::tempdir().unwrap();
    drop(open(whole.path()));
    // In the order in which they were written.
    let mut written: Vec<PathBuf> = Vec::new();
    for keyspace in Keyspace::ALL {
        written.extend(["v0", "current"].map(|name| whole.path().join(keyspace.name()).join(name)));
    }
    assert_eq!(written.len() + 1, files(whole.path()).len(), "nothing but the marker is left out");
    for kept in 0..=written.len() {
        let dir = tempfile::tempdir().unwrap();
        for file in &written[..kept] {
            let target = dir.path().join(file.strip_prefix(whole.path()).unwrap());
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::copy(file, target).unwrap();
        }
        let engine = open(dir.path());
        engine.write(batch(1), 1).unwrap();
        engine.checkpoint().unwrap();
    }
}
