//! Which links carry whose broadcasts: one small row per tree, least recently used out.

use crate::links::{Link, LinkSet};

/// This peer's place in one tree.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tree {
    /// Links to push along.
    pub children: LinkSet,
    /// The link its messages come by; `None` at the origin, and when the link is down.
    pub parent: Option<Link>,
    /// The link that would have been quicker than the parent of late.
    rival: Option<Link>,
    /// How often in a row.
    wins: u8,
    /// Low bits of the message it won last.
    won: u8,
    used: u32,
}

impl Tree {
    /// Counts that `link` would have brought message `seq` clearly sooner than the parent did, and says whether it has
    /// now done so `needed` times in a row and had better become the parent.
    pub fn outdone(&mut self, link: Link, seq: u32, needed: u8) -> bool {
        let since = (seq as u8).wrapping_sub(self.won);
        if self.rival == Some(link) && since == 0 {
            return false; // said twice
        }
        if self.rival == Some(link) && since <= 2 {
            self.wins = self.wins.saturating_add(1);
        } else if self.rival.is_none() || since > 1 || self.rival == Some(link) {
            (self.rival, self.wins) = (Some(link), 1);
        } else {
            return false; // another was quick as well, and is being watched
        }
        self.won = seq as u8;
        self.wins >= needed
    }

    /// Gets its messages by `link` from now on.
    pub fn turn_to(&mut self, link: Link) {
        self.parent = Some(link);
        self.children.remove(link);
        (self.rival, self.wins) = (None, 0);
    }
}

/// The trees this peer has a place in, by key.
#[derive(Debug, Default)]
pub struct Trees {
    keys: Vec<u32>,
    rows: Vec<Tree>,
    clock: u32,
}

impl Trees {
    /// The tree, if it is known.
    pub fn get(&self, key: u32) -> Option<&Tree> {
        self.keys.iter().position(|it| *it == key).map(|at| &self.rows[at])
    }

    /// The tree, if it is known, to be changed; it counts as used.
    pub fn get_mut(&mut self, key: u32) -> Option<&mut Tree> {
        let at = self.keys.iter().position(|it| *it == key)?;
        self.clock = self.clock.wrapping_add(1);
        self.rows[at].used = self.clock;
        Some(&mut self.rows[at])
    }

    /// The tree, planted if it was not known; then the least recently used makes room when there are `max`.
    pub fn plant(&mut self, key: u32, max: usize) -> &mut Tree {
        self.clock = self.clock.wrapping_add(1);
        let at = match self.keys.iter().position(|it| *it == key) {
            Some(at) => at,
            None if self.rows.len() >= max.max(1) => {
                let age = |at: &usize| self.clock.wrapping_sub(self.rows[*at].used);
                let oldest = (0..self.rows.len()).max_by_key(age).unwrap_or(0);
                self.keys[oldest] = key;
                self.rows[oldest] = Tree::default();
                oldest
            }
            None => {
                super::grow(&mut self.keys);
                super::grow(&mut self.rows);
                self.keys.push(key);
                self.rows.push(Tree::default());
                self.rows.len() - 1
            }
        };
        self.rows[at].used = self.clock;
        &mut self.rows[at]
    }

    /// Forgets a link in all of them.
    pub fn cut(&mut self, link: Link) {
        for tree in &mut self.rows {
            tree.children.remove(link);
            if tree.parent == Some(link) {
                tree.parent = None;
            }
            if tree.rival == Some(link) {
                (tree.rival, tree.wins) = (None, 0);
            }
        }
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Of all trees: where they are looked up, and the rows.
    pub fn touch(&self) -> u64 {
        let keys = self.keys.iter().step_by(16).fold(0, |sum, key| sum ^ key);
        u64::from(self.rows.iter().step_by(5).fold(keys, |sum, row| sum ^ row.used))
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.keys.capacity() * size_of::<u32>() + self.rows.capacity() * size_of::<Tree>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(at: usize) -> Link {
        Link::from_index(at).unwrap()
    }

    #[test]
    fn the_least_recently_used_tree_makes_room() {
        let mut trees = Trees::default();
        trees.plant(1, 2).children.insert(link(1));
        trees.plant(2, 2);
        trees.get_mut(1);
        trees.plant(3, 2);
        assert!(trees.get(2).is_none());
        assert!(trees.get(1).unwrap().children.has(link(1)));
        assert!(trees.get(3).unwrap().children.is_empty());
    }

    #[test]
    fn a_link_has_to_be_quicker_several_times_in_a_row() {
        let mut tree = Tree { parent: Some(link(0)), ..Tree::default() };
        assert!(!tree.outdone(link(1), 7, 3));
        assert!(!tree.outdone(link(1), 7, 3), "the same message does not count twice");
        assert!(!tree.outdone(link(2), 8, 3), "one is watched at a time");
        assert!(!tree.outdone(link(1), 8, 3));
        assert!(!tree.outdone(link(2), 20, 3), "the first has not been heard of for long");
        assert!(!tree.outdone(link(2), 21, 3));
        assert!(tree.outdone(link(2), 22, 3));
    }

    #[test]
    fn a_link_that_is_down_is_neither_parent_nor_child() {
        let mut trees = Trees::default();
        let tree = trees.plant(1, 2);
        tree.children.insert(link(1));
        tree.parent = Some(link(2));
        trees.cut(link(1));
        trees.cut(link(2));
        let tree = trees.get(1).unwrap();
        assert!(tree.children.is_empty() && tree.parent.is_none());
    }

    #[test]
    fn a_tree_takes_sixteen_bytes_with_its_key() {
        assert_eq!(size_of::<Tree>() + size_of::<u32>(), 16);
    }
}
