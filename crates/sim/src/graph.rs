//! What can be said of an overlay from outside, where all of it can be seen at once.

use rand::{Rng, RngExt};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A graph over the numbers below [`Graph::len`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// Where each one's neighbours begin in `neighbours`; one more at the end.
    starts: Vec<u32>,
    neighbours: Vec<u32>,
}

impl Graph {
    /// From each one's neighbours in turn. Links may go one way only; see [`Graph::one_sided`].
    pub fn new<I: IntoIterator<Item = u32>>(all: impl IntoIterator<Item = I>) -> Self {
        let mut graph = Self { starts: vec![0], neighbours: Vec::new() };
        for neighbours in all {
            graph.neighbours.extend(neighbours);
            graph.starts.push(graph.neighbours.len() as u32);
        }
        let len = graph.len() as u32;
        graph.neighbours.iter().for_each(|at| assert!(*at < len, "a neighbour outside of the graph"));
        graph
    }

    /// Every one with `degree` neighbours drawn at random, or as near as comes out even.
    pub fn random_regular(len: usize, degree: usize, rng: &mut impl Rng) -> Self {
        Self::random(&vec![degree as u32; len], rng)
    }

    /// A random graph with these degrees, less a few links that would go to oneself or be double.
    /// * Source: Bollobás's configuration model (1980); loops and double links are redrawn by swapping.
    pub fn random(degrees: &[u32], rng: &mut impl Rng) -> Self {
        let mut ends: Vec<u32> = Vec::new();
        for (at, degree) in degrees.iter().enumerate() {
            ends.extend(std::iter::repeat_n(at as u32, *degree as usize));
        }
        for at in (1..ends.len()).rev() {
            ends.swap(at, rng.random_range(0..=at));
        }
        let mut lists: Vec<Vec<u32>> = vec![Vec::new(); degrees.len()];
        let mut at = 0;
        let mut tries = ends.len() * 20;
        while at + 1 < ends.len() {
            let (a, b) = (ends[at], ends[at + 1]);
            if a != b && !lists[a as usize].contains(&b) {
                lists[a as usize].push(b);
                lists[b as usize].push(a);
            } else if tries > 0 && at + 2 < ends.len() {
                tries -= 1;
                let other = rng.random_range(at + 2..ends.len());
                ends.swap(at + 1, other);
                continue;
            }
            at += 2;
        }
        Self::new(lists)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One's neighbours.
    pub fn neighbours(&self, of: u32) -> &[u32] {
        &self.neighbours[self.starts[of as usize] as usize..self.starts[of as usize + 1] as usize]
    }

    /// How many have 0, 1, 2... neighbours.
    pub fn degree_histogram(&self) -> Vec<usize> {
        let mut histogram = Vec::new();
        for at in 0..self.len() as u32 {
            let degree = self.neighbours(at).len();
            if histogram.len() <= degree {
                histogram.resize(degree + 1, 0);
            }
            histogram[degree] += 1;
        }
        histogram
    }

    /// Links of which the other end knows nothing.
    pub fn one_sided(&self) -> usize {
        let all = (0..self.len() as u32).flat_map(|at| self.neighbours(at).iter().map(move |to| (at, *to)));
        all.filter(|(at, to)| !self.neighbours(*to).contains(at)).count()
    }

    /// Sizes of the components, largest first. A link counts in both directions, even when only one end has it.
    pub fn components(&self) -> Vec<usize> {
        let mut parent: Vec<u32> = (0..self.len() as u32).collect();
        fn root(parent: &mut [u32], mut at: u32) -> u32 {
            while parent[at as usize] != at {
                parent[at as usize] = parent[parent[at as usize] as usize];
                at = parent[at as usize];
            }
            at
        }
        for at in 0..self.len() as u32 {
            for to in self.neighbours(at) {
                let (a, b) = (root(&mut parent, at), root(&mut parent, *to));
                parent[a.max(b) as usize] = a.min(b);
            }
        }
        let mut sizes = vec![0; self.len()];
        for at in 0..self.len() as u32 {
            sizes[root(&mut parent, at) as usize] += 1;
        }
        sizes.retain(|size| *size > 0);
        sizes.sort_unstable_by_key(|size| Reverse(*size));
        sizes
    }

    /// Mean number of links on the shortest path between two, over all that can be reached from `samples`
    /// sources drawn at random. 0 when nothing can be reached.
    pub fn mean_path(&self, samples: usize, rng: &mut impl Rng) -> f64 {
        let (mut sum, mut reached) = (0_u64, 0_u64);
        let mut seen = vec![u32::MAX; self.len()];
        let mut queue = Vec::with_capacity(self.len());
        for sample in 0..if self.is_empty() { 0 } else { samples as u32 } {
            queue.clear();
            let source = rng.random_range(0..self.len() as u32);
            seen[source as usize] = sample;
            queue.push((source, 0_u64));
            let mut next = 0;
            while let Some(&(at, steps)) = queue.get(next) {
                next += 1;
                sum += steps;
                for to in self.neighbours(at) {
                    if seen[*to as usize] != sample {
                        seen[*to as usize] = sample;
                        queue.push((*to, steps + 1));
                    }
                }
            }
            reached += queue.len() as u64 - 1;
        }
        if reached == 0 { 0.0 } else { sum as f64 / reached as f64 }
    }

    /// When a flood from `source` reaches each, in microseconds; `None` where it never does. No broadcast over
    /// these links can be faster: it is the shortest path by `delay(from, to)`.
    pub fn flood(&self, source: u32, delay: impl Fn(u32, u32) -> u64) -> Vec<Option<u64>> {
        let mut best: Vec<Option<u64>> = vec![None; self.len()];
        let mut queue = BinaryHeap::new();
        best[source as usize] = Some(0);
        queue.push(Reverse((0, source)));
        while let Some(Reverse((time, at))) = queue.pop() {
            if best[at as usize].is_some_and(|known| known < time) {
                continue;
            }
            for to in self.neighbours(at) {
                let arrives = time + delay(at, *to);
                if best[*to as usize].is_none_or(|known| arrives < known) {
                    best[*to as usize] = Some(arrives);
                    queue.push(Reverse((arrives, *to)));
                }
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus;

    #[test]
    fn a_random_regular_graph_is_one_component_with_the_degrees_asked_for() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(5);
        let graph = Graph::random_regular(1_000, 5, &mut rng);
        assert_eq!(graph.components(), [1_000]);
        assert_eq!(graph.one_sided(), 0);
        let histogram = graph.degree_histogram();
        assert!(histogram[5] >= 996, "{histogram:?}");
        // 5, 20, 80, about 270, 480 and 145 are 1, 2... links away.
        let path = graph.mean_path(100, &mut rng);
        assert!((4.6..4.8).contains(&path), "{path}");
    }

    #[test]
    fn components_and_floods_see_the_islands() {
        let graph = Graph::new([vec![1, 2], vec![0, 2], vec![1], vec![4], vec![3], vec![]]);
        assert_eq!(graph.components(), [3, 2, 1]);
        assert_eq!(graph.one_sided(), 1);
        assert_eq!(graph.degree_histogram(), [1, 3, 2]);
        let flood = graph.flood(0, |from, to| if (from, to) == (0, 2) { 50 } else { 20 });
        assert_eq!(flood, [Some(0), Some(20), Some(40), None, None, None]);
    }
}
