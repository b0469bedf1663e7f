//! A machine that remembers every command, and of its state only what it made durable survives a crash.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use skein_cohort::machine::{Chunk, Entry, Machine, MachineError, Staging, View};
use std::sync::{Arc, Mutex};

/// A command and the entry it came with.
pub type Applied = (u64, u64, Bytes);

#[derive(Clone, Default)]
pub struct State {
    pub applied: Vec<Applied>,
    pub position: u64,
    pub place: Option<Bytes>,
}

/// What a machine's drive holds.
#[derive(Clone, Default)]
pub struct Store {
    durable: Arc<Mutex<State>>,
}

pub struct ListMachine {
    now: Mutex<State>,
    store: Store,
}

impl ListMachine {
    pub fn open(store: Store) -> ListMachine {
        let now = store.durable.lock().unwrap().clone();
        ListMachine { now: Mutex::new(now), store }
    }

    pub fn state(&self) -> State {
        self.now.lock().unwrap().clone()
    }

    pub fn position(&self) -> u64 {
        self.now.lock().unwrap().position
    }
}

impl Machine for ListMachine {
    type View = ListView;
    type Staging = ListStaging;

    fn place(&self) -> Option<Bytes> {
        self.now.lock().unwrap().place.clone()
    }

    async fn apply(&self, entry: Entry) -> Result<(), MachineError> {
        let mut now = self.now.lock().unwrap();
        assert_eq!(now.position, entry.index, "every entry once, in order");
        now.position = entry.position();
        now.place = Some(entry.place);
        if let Some(command) = entry.command {
            now.applied.push((entry.index, entry.term, command));
        }
        Ok(())
    }

    fn durable_position(&self) -> u64 {
        self.store.durable.lock().unwrap().position
    }

    async fn checkpoint(&self) -> Result<(), MachineError> {
        *self.store.durable.lock().unwrap() = self.state();
        Ok(())
    }

    async fn view(&self) -> Result<ListView, MachineError> {
        Ok(ListView(self.state()))
    }

    async fn stage(&self) -> Result<ListStaging, MachineError> {
        Ok(ListStaging(State::default()))
    }

    async fn promote(&self, staged: ListStaging, place: Bytes) -> Result<(), MachineError> {
        let mut state = staged.0;
        state.place = Some(place);
        *self.store.durable.lock().unwrap() = state.clone();
        *self.now.lock().unwrap() = state;
        Ok(())
    }
}

pub struct ListView(State);

/// Commands in a chunk: few, so that there are many chunks.
const CHUNK: usize = 7;

impl View for ListView {
    fn place(&self) -> Option<Bytes> {
        self.0.place.clone()
    }

    fn bytes_estimate(&self) -> u64 {
        self.0.applied.iter().map(|(_, _, command)| 20 + command.len() as u64).sum()
    }

    fn chunk(&self, mut from: &[u8], _bytes_max: usize) -> Result<Option<Chunk>, MachineError> {
        let start = if from.is_empty() { 0 } else { from.get_u64() as usize };
        if self.0.applied.len() <= start && !(start == 0 && self.0.applied.is_empty()) {
            return Ok(None);
        }
        let end = (start + CHUNK).min(self.0.applied.len());
        let mut bytes = BytesMut::new();
        bytes.put_u64(self.0.position);
        for (index, term, command) in &self.0.applied[start..end] {
            bytes.put_u64(*index);
            bytes.put_u64(*term);
            bytes.put_u32(command.len() as u32);
            bytes.put_slice(command);
        }
        let next = Bytes::copy_from_slice(&(end.max(1) as u64).to_be_bytes());
        Ok(Some(Chunk { bytes: bytes.freeze(), next }))
    }
}

pub struct ListStaging(State);

impl Staging for ListStaging {
    async fn write(&mut self, mut chunk: Bytes) -> Result<(), MachineError> {
        self.0.position = chunk.get_u64();
        while chunk.has_remaining() {
            let (index, term, length) = (chunk.get_u64(), chunk.get_u64(), chunk.get_u32());
            self.0.applied.push((index, term, chunk.split_to(length as usize)));
        }
        Ok(())
    }
}
