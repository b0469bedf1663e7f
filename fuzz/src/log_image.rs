//! Disks as a hostile or broken machine might leave them: control file and segments of a log whose checksums are right
//! and whose contents are whatever the fuzzer says. Written from `docs/FORMAT.md`, not with the code under test.

use crate::bytes_of::Take;
use skein_storage::disk::{Disk, MemDisk};
use std::collections::BTreeMap;
use std::io;

/// Size of every segment file: the smallest that the log takes.
pub const SEGMENT_BYTES: u64 = 16 << 10;

const SALT: u32 = 0x5EED_5A17;
const HEADER: usize = 4096;

/// The disk that `data` describes: the control file, then one segment after another, each a list of instructions.
pub fn build(data: &[u8]) -> io::Result<MemDisk> {
    let mut take = Take(data);
    let disk = MemDisk::new();
    let shape = take.byte();
    let (first, first_sequence) = (take.number().max(1), take.number().max(1));
    if shape & 1 == 0 {
        let mut file = vec![0; 8192];
        for slot in 0..=usize::from(shape >> 1 & 1) {
            let numbers = [
                1 + slot as u64,
                first,
                first.wrapping_add(take.number()).wrapping_sub(1),
                first_sequence,
                take.number(),
                u64::from(shape >> 2 & 1) | u64::from(SALT) << 32,
            ];
            file[slot * 4096..][..64].copy_from_slice(&framed(b"SKEINCTL", &numbers));
        }
        put(&disk, "log.control", &file)?;
    }
    let mut records = Records { take, sequence: first_sequence, mark: 0, group: 1, next: BTreeMap::new() };
    let mut generation = first;
    for _ in 0..usize::from(shape >> 3 & 3) + 1 {
        let segment = records.segment(generation);
        put(&disk, &format!("log-{generation:016}.segment"), &segment)?;
        generation = generation.wrapping_add(1);
        if records.take.0.is_empty() || generation == 0 {
            break;
        }
    }
    Ok(disk)
}

fn put(disk: &MemDisk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let file = disk.create(name, bytes.len() as u64)?;
    file.write_at(bytes, 0)?;
    file.sync_data()
}

/// `| magic | version 1 | checksum of all but itself | numbers |`: a slot of the control file, or a segment's header.
fn framed(magic: &[u8; 8], numbers: &[u64]) -> Vec<u8> {
    let mut out = magic.to_vec();
    out.extend_from_slice(&1u32.to_le_bytes());
    let body: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&out), &body);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(&body);
    out
}

/// What is being written, across segments.
struct Records<'a> {
    take: Take<'a>,
    sequence: u64,
    mark: u64,
    group: u64,
    /// The index that the next entry of a group has unless the fuzzer gives another.
    next: BTreeMap<u64, u64>,
}

impl Records<'_> {
    fn segment(&mut self, generation: u64) -> Vec<u8> {
        let mut out = framed(b"SKEINLOG", &[generation, SEGMENT_BYTES, u64::from(SALT)]);
        out.resize(HEADER, 0);
        let mut seed = crc32c::crc32c_append(SALT, &generation.to_le_bytes());
        while !self.take.0.is_empty() && out.len() + 1024 < SEGMENT_BYTES as usize {
            let op = self.take.byte();
            match op & 15 {
                0 => break,
                kind @ 1..=8 => {
                    let body = self.body(kind, op & 16 != 0);
                    self.record(&mut out, seed, kind, &body);
                    if kind == 8 {
                        break;
                    }
                }
                9 => out.resize(out.len() + 8 * usize::from(self.take.byte()).min(100), 0),
                10 => self.sequence = self.take.number(),
                11 => self.mark = self.take.number(),
                12 => self.group = self.take.number(),
                13 => {
                    out.extend_from_slice(self.take.bytes(64));
                    out.resize(out.len().next_multiple_of(8), 0);
                }
                14 => {
                    let at = out.len() - 1 - usize::from(self.take.byte());
                    out[at] ^= self.take.byte();
                }
                // Left over from an earlier life of the file.
                _ => seed = crc32c::crc32c_append(SALT, &self.take.number().to_le_bytes()),
            }
        }
        out.resize(SEGMENT_BYTES as usize, 0);
        out
    }

    /// The body of a record; `odd` ones are less likely to make sense.
    fn body(&mut self, kind: u8, odd: bool) -> Vec<u8> {
        let mut body = Vec::new();
        let next = self.next.entry(self.group).or_insert(1);
        match kind {
            1 => {
                let index = if odd { self.take.number() } else { *next };
                *next = index.wrapping_add(1);
                body.extend_from_slice(&index.to_le_bytes());
            }
            3 if odd => return body,
            3 => {
                let after = self.take.number();
                *next = after.wrapping_add(1).min(*next);
                body.extend_from_slice(&after.to_le_bytes());
                return body;
            }
            4 => {
                let index = self.take.number();
                *next = index.wrapping_add(1).max(*next);
                body.extend_from_slice(&index.to_le_bytes());
            }
            6 if !odd => {
                let flags = self.take.byte() & 15;
                body.push(flags);
                if flags & 1 != 0 {
                    body.extend_from_slice(&[1, 0, 7]);
                }
                if flags & 2 != 0 {
                    let purged = self.take.number();
                    body.extend_from_slice(&purged.to_le_bytes());
                    body.extend_from_slice(&[0, 0]);
                    *next = purged.wrapping_add(1);
                }
                if flags & 4 != 0 {
                    body.extend_from_slice(&[2, 0, 8, 9]);
                }
                if flags & 8 != 0 {
                    let (first, last) = (self.take.number(), self.take.number());
                    body.extend_from_slice(&first.to_le_bytes());
                    body.extend_from_slice(&last.to_le_bytes());
                    *next = last.wrapping_add(1);
                }
                return body;
            }
            7 | 8 if !odd => return body,
            _ => {}
        }
        let len = usize::from(self.take.byte());
        body.extend_from_slice(self.take.bytes(len));
        body
    }

    fn record(&mut self, out: &mut Vec<u8>, seed: u32, kind: u8, body: &[u8]) {
        let group = if kind < 7 { self.group } else { 0 };
        let mut record = ((40 + body.len()) as u32).to_le_bytes().to_vec();
        for number in [self.sequence, self.mark, group, u64::from(kind)] {
            record.extend_from_slice(&number.to_le_bytes());
        }
        record.extend_from_slice(body);
        out.extend_from_slice(&crc32c::crc32c_append(seed, &record).to_le_bytes());
        out.extend_from_slice(&record);
        out.resize(out.len().next_multiple_of(8), 0);
        self.sequence = self.sequence.wrapping_add(1);
    }
}
