//! `skein cert`: a CA for a cell, and a certificate for each of its peers, for those who have no CA of their own.

use crate::args::{CertArgs, CertVerb};
use crate::say;
use crate::trouble::{Exit, Trouble};
use skein_model::HostId;
use skein_transport::cert::{Pem, make_ca, make_peer};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Names of the CA's files in its directory.
const CA: &str = "ca";
/// Longest file that can be a certificate or a key.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Runs `skein cert`.
pub fn run(args: &CertArgs) -> Result<Exit, Trouble> {
    match &args.verb {
        CertVerb::Ca { dir } => ca(dir),
        CertVerb::Peer { host, ca, out, name } => peer(*host, ca, out.as_deref().unwrap_or(ca), name),
    }
    .map(|said| {
        say::out(said);
        Exit::Done
    })
}

fn ca(dir: &Path) -> Result<String, Trouble> {
    let what = "cannot make a CA";
    let (certificate, key) = files(dir, CA);
    // Before anything is drawn: a CA that is replaced takes every peer's certificate with it.
    refuse_to_replace(what, &[&certificate, &key])?;
    let pem = make_ca().map_err(|e| Trouble::new(Exit::Failed, what).because_of(&e))?;
    keep(what, dir, CA, &pem)?;
    Ok(format!(
        "made {} and {}\nevery peer needs the first; the second makes certificates, and should leave this machine never\nnext:  skein cert peer HOST --ca {}",
        certificate.display(),
        key.display(),
        dir.display()
    ))
}

fn peer(host: HostId, ca_dir: &Path, out: &Path, names: &[String]) -> Result<String, Trouble> {
    let what = format!("cannot make a certificate for {host}");
    let (ca_certificate, ca_key) = files(ca_dir, CA);
    let name = format!("peer-{:016x}", host.0);
    let (certificate, key) = files(out, &name);
    refuse_to_replace(&what, &[&certificate, &key])?;
    let read = |path: &Path| {
        read_pem(path).map_err(|e| {
            Trouble::new(Exit::Config, &what)
                .because(format!("read {}", path.display()))
                .because_of(&e)
                .next(format!("skein cert ca {} makes a CA", ca_dir.display()))
        })
    };
    let ca = Pem { certificate: read(&ca_certificate)?, key: read(&ca_key)? };
    let pem = make_peer(&ca, host, names).map_err(|e| Trouble::new(Exit::Config, &what).because_of(&e))?;
    keep(&what, out, &name, &pem)?;
    Ok(format!(
        "made {certificate} and {key}\nnext:  skein serve --peer-tls-ca {ca} --peer-tls-cert {certificate} --peer-tls-key {key} …",
        certificate = certificate.display(),
        key = key.display(),
        ca = ca_certificate.display(),
    ))
}

/// Where a certificate and its key are.
fn files(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")))
}

fn refuse_to_replace(what: &str, paths: &[&Path]) -> Result<(), Trouble> {
    match paths.iter().find(|path| path.exists()) {
        None => Ok(()),
        Some(path) => Err(Trouble::new(Exit::Config, what)
            .because(format!("{} exists already, and is not replaced", path.display()))
            .next("name another directory, or move the file away")),
    }
}

/// Reads a text of PEM, within bounds.
pub fn read_pem(path: &Path) -> io::Result<String> {
    let file = fs::File::open(path)?;
    let mut text = String::new();
    let read = io::Read::read_to_string(&mut io::Read::take(file, PEM_BYTES_MAX + 1), &mut text)?;
    if PEM_BYTES_MAX < read as u64 {
        return Err(io::Error::other("it is larger than 1MiB, and no PEM file is"));
    }
    Ok(text)
}

/// Writes both files, the key for its owner only.
fn keep(what: &str, dir: &Path, name: &str, pem: &Pem) -> Result<(), Trouble> {
    let (certificate, key) = files(dir, name);
    let write = |path: &Path, mode: u32, text: &str| -> Result<(), Trouble> {
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|e| {
            Trouble::new(Exit::Failed, what).because(format!("write {}", path.display())).because_of(&e)
        })
    };
    fs::create_dir_all(dir).map_err(|e| {
        Trouble::new(Exit::Failed, what).because(format!("make {}", dir.display())).because_of(&e)
    })?;
    write(&key, 0o600, &pem.key)?;
    write(&certificate, 0o644, &pem.certificate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_transport::Tls;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_ca_and_its_peers_fit_together_and_keys_are_for_their_owner_only() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("tls");
        ca(&dir).unwrap();
        let said = peer(HostId(0xF), &dir, &dir, &["db1.example".to_owned()]).unwrap();
        assert!(said.contains("--peer-tls-cert"), "{said}");
        let read = |name: &str| read_pem(&dir.join(name)).unwrap();
        Tls::from_pem(
            &read("ca.pem"),
            &read("peer-000000000000000f.pem"),
            &read("peer-000000000000000f.key"),
        )
        .unwrap();
        for key in ["ca.key", "peer-000000000000000f.key"] {
            assert_eq!(fs::metadata(dir.join(key)).unwrap().permissions().mode() & 0o777, 0o600, "{key}");
        }
    }

    #[test]
    fn nothing_is_replaced_and_a_missing_ca_is_named() {
        let root = tempfile::tempdir().unwrap();
        let missing = peer(HostId(1), root.path(), root.path(), &[]).unwrap_err().render();
        assert!(missing.contains("ca.pem") && missing.contains("skein cert ca"), "{missing}");
        ca(root.path()).unwrap();
        let before = read_pem(&root.path().join("ca.pem")).unwrap();
        let again = ca(root.path()).unwrap_err().render();
        assert!(again.contains("exists already"), "{again}");
        assert_eq!(read_pem(&root.path().join("ca.pem")).unwrap(), before);
        peer(HostId(1), root.path(), root.path(), &[]).unwrap();
        assert!(peer(HostId(1), root.path(), root.path(), &[]).is_err());
    }
}
