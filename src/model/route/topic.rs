//! Topic matching: a trie of words, matched by sets of states.
//!
//! Need: many patterns, one pass. Shape: nodes in an arena, children by word, plus one `*` and one `#` child each. A
//! match keeps the set of nodes reached after each word; a `#` node stays in it. Limits: a step costs at most the nodes
//! of the trie, so a match is O(words × nodes) whatever the patterns; never exponential. Words are bytes.

use hashbrown::HashMap;

use super::{Target, Targets};

/// A topic exchange's bindings.
#[derive(Debug)]
pub(crate) struct Trie {
    nodes: Vec<Node>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Node {
    /// Literal words. Lookup only.
    words: HashMap<Box<[u8]>, u32>,
    star: Option<u32>,
    hash: Option<u32>,
    /// Reached by `#`: any further words may follow.
    loops: bool,
    targets: Targets,
}

impl Node {
    fn child(&self, word: &[u8]) -> Option<u32> {
        match word {
            b"*" => self.star,
            b"#" => self.hash,
            word => self.words.get(word).copied(),
        }
    }

    fn is_empty(&self) -> bool {
        self.targets.is_empty()
            && self.words.is_empty()
            && self.star.is_none()
            && self.hash.is_none()
    }
}

impl Default for Trie {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            free: Vec::new(),
        }
    }
}

/// The words of a key; the empty key has none.
fn words(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let count = if key.is_empty() { 0 } else { usize::MAX };
    key.split(|byte| *byte == b'.').take(count)
}

impl Trie {
    pub(super) fn insert(&mut self, pattern: &[u8], target: &Target) {
        let mut at = 0;
        for word in words(pattern) {
            at = match self.nodes[at as usize].child(word) {
                Some(child) => child,
                None => self.grow(at, word),
            };
        }
        self.nodes[at as usize].targets.insert(target);
    }

    fn grow(&mut self, parent: u32, word: &[u8]) -> u32 {
        let node = Node {
            loops: word == b"#",
            ..Node::default()
        };
        let child = match self.free.pop() {
            Some(free) => {
                self.nodes[free as usize] = node;
                free
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let parent = &mut self.nodes[parent as usize];
        match word {
            b"*" => parent.star = Some(child),
            b"#" => parent.hash = Some(child),
            word => {
                parent.words.insert(word.into(), child);
            }
        }
        child
    }

    pub(super) fn remove(&mut self, pattern: &[u8], target: &Target) {
        let mut path = vec![0];
        for word in words(pattern) {
            let last = path.last().copied().unwrap_or_default();
            let Some(child) = self.nodes[last as usize].child(word) else {
                return;
            };
            path.push(child);
        }
        let last = path.pop().unwrap_or_default();
        self.nodes[last as usize].targets.remove(target);
        let mut child = last;
        let mut taken: Vec<&[u8]> = words(pattern).collect();
        while let (Some(parent), Some(word)) = (path.pop(), taken.pop()) {
            if !self.nodes[child as usize].is_empty() {
                return;
            }
            let node = &mut self.nodes[parent as usize];
            match word {
                b"*" => node.star = None,
                b"#" => node.hash = None,
                word => {
                    node.words.remove(word);
                }
            }
            self.free.push(child);
            child = parent;
        }
    }

    /// Calls `found` for every pattern that matches `key`.
    pub(super) fn matches<'a>(&'a self, key: &[u8], found: &mut impl FnMut(&'a Targets)) {
        let mut now = Vec::with_capacity(16);
        let mut then = Vec::with_capacity(16);
        self.enter(0, &mut now);
        for word in words(key) {
            for at in now.drain(..) {
                let node = &self.nodes[at as usize];
                if node.loops {
                    then.push(at);
                }
                let literal = node.words.get(word).copied();
                for child in literal.into_iter().chain(node.star) {
                    self.enter(child, &mut then);
                }
            }
            then.sort_unstable();
            then.dedup();
            std::mem::swap(&mut now, &mut then);
        }
        for at in now {
            found(&self.nodes[at as usize].targets);
        }
    }

    /// The node, and those that `#` matching nothing leads to.
    fn enter(&self, at: u32, states: &mut Vec<u32>) {
        let mut next = Some(at);
        while let Some(at) = next {
            states.push(at);
            next = self.nodes[at as usize].hash;
        }
    }

    #[cfg(test)]
    pub(super) fn nodes_in_use(&self) -> usize {
        self.nodes.len() - self.free.len()
    }
}
