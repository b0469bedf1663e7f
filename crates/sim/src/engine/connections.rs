//! One peer's ends of its connections: few, so a plain list is fastest and smallest.

use super::Node;

#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub peer: Node,
    /// The same at both ends, and never used again.
    pub id: u32,
    /// Nothing sent from here arrives before this, so that messages stay in order.
    pub free_at: u64,
    /// When something last went or came.
    pub used: u64,
    /// It will turn out to be broken; nothing sent on it arrives.
    pub doomed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Connections {
    list: Vec<Connection>,
}

impl Connections {
    #[inline]
    pub fn find(&mut self, peer: Node) -> Option<&mut Connection> {
        self.list.iter_mut().find(|connection| connection.peer == peer)
    }

    pub fn add(&mut self, connection: Connection) {
        if self.list.len() == self.list.capacity() {
            self.list.reserve_exact(4);
        }
        self.list.push(connection);
    }

    /// Whether there was this very connection.
    pub fn remove(&mut self, peer: Node, id: u32) -> bool {
        let at = self.list.iter().position(|connection| connection.peer == peer && connection.id == id);
        at.map(|at| self.list.swap_remove(at)).is_some()
    }

    /// One that was not used since `before` and is not waiting to fail.
    pub fn idle(&self, before: u64) -> Option<Connection> {
        self.list.iter().find(|one| one.used < before && one.free_at < before && !one.doomed).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.list.iter()
    }

    pub fn bytes(&self) -> usize {
        self.list.capacity() * size_of::<Connection>()
    }
}
