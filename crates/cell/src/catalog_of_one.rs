//! The cell's facts about itself: atlas and schema, each with a version, in one small durable file.
//!
//! A change replaces the whole file: written beside it, synced, renamed over it, directory synced. So the file is
//! always the old or the new catalog. In a cell of one this file is the catalog; a later release replicates it.
//!
//! ```text
//! skein-catalog FORMAT CRC32C BYTES\n      FORMAT decimal, CRC32C of the body in hexadecimal, BYTES of the body
//! {"atlas":{"version":V,"cohorts":[…]},"schema":{"version":V,"text":"…"}}
//! ```

use serde::{Deserialize, Serialize};
use skein_model::{Atlas, Schema};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Newest layout that this build reads and writes.
pub const CATALOG_FORMAT: u32 = 1;

const MAGIC: &str = "skein-catalog";
const NAME: &str = "catalog";

/// Why the catalog could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The file could not be read or written. If it was being written, the old catalog is still in force.
    #[error("{verb} {}: {source}", path.display())]
    Io {
        /// What was being done.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what was once written.
    #[error("{} is damaged: {detail}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        detail: String,
    },
    /// The file was written by a newer release.
    #[error("{} has format {found}; this release reads up to {CATALOG_FORMAT}; start the newer release", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// What the catalog says at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The atlas in force.
    pub atlas: Arc<Atlas>,
    /// How often the schema was changed.
    pub schema_version: u64,
    /// The schema in force.
    pub schema: Arc<Schema>,
}

#[derive(Serialize, Deserialize)]
struct Body {
    atlas: AtlasBody,
    schema: SchemaBody,
}

#[derive(Serialize, Deserialize)]
struct AtlasBody {
    version: u64,
    cohorts: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
struct SchemaBody {
    version: u64,
    text: String,
}

/// The catalog's file.
#[derive(Debug)]
pub struct Catalog {
    dir: PathBuf,
}

impl Catalog {
    /// The catalog of the store in `dir`.
    pub fn in_dir(dir: &Path) -> Catalog {
        Catalog { dir: dir.to_owned() }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    fn damaged(&self, detail: impl Into<String>) -> CatalogError {
        CatalogError::Damaged { path: self.path(), detail: detail.into() }
    }

    /// Reads and checks the file; a store that has none yet has an empty atlas and an empty schema.
    pub fn load(&self) -> Result<Facts, CatalogError> {
        let path = self.path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Facts {
                    atlas: Arc::new(Atlas::empty()),
                    schema_version: 0,
                    schema: Arc::new(Schema::default()),
                });
            }
            Err(source) => return Err(CatalogError::Io { verb: "read", path, source }),
        };
        self.parse(&bytes)
    }

    /// Says that the catalog is damaged if the file is missing: for a store that once had a cohort, and so a catalog.
    pub fn check_is_there(&self) -> Result<(), CatalogError> {
        let path = self.path();
        match path.try_exists() {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(self.damaged("it is missing, and the log holds entries of a cohort that it named"))
            }
            Err(source) => Err(CatalogError::Io { verb: "look for", path, source }),
        }
    }

    /// What a catalog file with these bytes says. Reads nothing; the directory is only named in errors.
    pub fn parse(&self, bytes: &[u8]) -> Result<Facts, CatalogError> {
        let end =
            bytes.iter().position(|b| *b == b'\n').ok_or_else(|| self.damaged("it has no first line"))?;
        let header =
            std::str::from_utf8(&bytes[..end]).map_err(|_| self.damaged("its first line is not text"))?;
        let body = &bytes[end + 1..];
        let mut words = header.split(' ');
        if words.next() != Some(MAGIC) {
            return Err(self.damaged(format!("its first line does not start with {MAGIC}")));
        }
        let format: u32 = words
            .next()
            .and_then(|w| w.parse().ok())
            .ok_or_else(|| self.damaged("its first line names no format"))?;
        if CATALOG_FORMAT < format {
            return Err(CatalogError::Newer { path: self.path(), found: format });
        }
        let expected = words.next().and_then(|w| u32::from_str_radix(w, 16).ok());
        let length = words.next().and_then(|w| w.parse::<usize>().ok());
        if length != Some(body.len()) {
            return Err(self.damaged(format!(
                "it should hold {length:?} bytes after its first line, and has {}",
                body.len()
            )));
        }
        let found = crc32c::crc32c(body);
        if expected != Some(found) {
            return Err(self.damaged(format!("its checksum is {found:08x}, expected {expected:08x?}")));
        }
        let body: Body = serde_json::from_slice(body).map_err(|e| self.damaged(e.to_string()))?;
        let schema = Schema::parse(&body.schema.text).map_err(|e| self.damaged(format!("schema: {e}")))?;
        let cohorts = if body.atlas.version == 0 {
            Atlas::empty().cohorts
        } else {
            Atlas::parse_targets(body.atlas.cohorts.to_string().as_bytes())
                .map_err(|e| self.damaged(format!("atlas: {e}")))?
        };
        Ok(Facts {
            atlas: Arc::new(Atlas { version: body.atlas.version, cohorts }),
            schema_version: body.schema.version,
            schema: Arc::new(schema),
        })
    }

    /// Puts `facts` in the place of what the file says, durably. Blocks. On an error the old catalog stays.
    pub fn store(&self, facts: &Facts) -> Result<(), CatalogError> {
        let cohorts =
            serde_json::from_str(&facts.atlas.to_json()).map_err(|e| self.damaged(e.to_string()))?;
        let body = Body {
            atlas: AtlasBody { version: facts.atlas.version, cohorts },
            schema: SchemaBody { version: facts.schema_version, text: facts.schema.text().to_owned() },
        };
        let body = serde_json::to_vec(&body).map_err(|e| self.damaged(e.to_string()))?;
        let header = format!("{MAGIC} {CATALOG_FORMAT} {:08x} {}\n", crc32c::crc32c(&body), body.len());
        let temporary = self.dir.join(format!("{NAME}.new"));
        let io = |verb: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| CatalogError::Io { verb, path, source }
        };
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(header.as_bytes())?;
            file.write_all(&body)?;
            file.sync_all()
        };
        if let Err(error) = write() {
            // Best effort: a leftover is overwritten by the next change and never read.
            let _ = fs::remove_file(&temporary);
            return Err(io("write", &temporary)(error));
        }
        fs::rename(&temporary, self.path()).map_err(io("replace", &self.path()))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io("sync", &self.dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let cohorts = Atlas::parse_targets(br#"[{"hosts":["0x7"]}]"#).unwrap();
        Facts {
            atlas: Arc::new(Atlas { version: 3, cohorts }),
            schema_version: 2,
            schema: Arc::new(Schema::parse("table fruit { id: 1; };").unwrap()),
        }
    }

    #[test]
    fn a_catalog_comes_back_as_it_was_stored() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::in_dir(dir.path());
        assert!(catalog.load().unwrap().atlas.is_empty());
        catalog.store(&facts()).unwrap();
        assert_eq!(catalog.load().unwrap(), facts());
    }

    #[test]
    fn a_catalog_that_has_to_be_there_is_missed() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::in_dir(dir.path());
        assert!(matches!(catalog.check_is_there(), Err(CatalogError::Damaged { .. })));
        catalog.store(&facts()).unwrap();
        catalog.check_is_there().unwrap();
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::in_dir(dir.path());
        catalog.store(&facts()).unwrap();
        let good = fs::read(catalog.path()).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(catalog.parse(&bad).is_err(), "flip at {at}");
            assert!(catalog.parse(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let error = Catalog::in_dir(dir.path()).parse(b"skein-catalog 9 0 0\n").unwrap_err();
        assert!(error.to_string().contains("format 9"), "{error}");
    }
}
