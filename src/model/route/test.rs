use proptest::prelude::*;

use super::topic::Trie;
use super::*;

fn hits(pattern: &str, key: &str) -> bool {
    let mut trie = Trie::default();
    trie.insert(pattern.as_bytes(), &Target::Queue(QueueId(1)));
    let mut hit = false;
    trie.matches(key.as_bytes(), &mut |targets| hit |= !targets.is_empty());
    hit
}

#[test]
fn topic_patterns_match_as_the_table_says() {
    let table = [
        ("#", "", true),
        ("#", "a.b", true),
        ("", "", true),
        ("", "a", false),
        ("*", "", false),
        ("*", "a", true),
        ("*", "a.b", false),
        ("#.#", "", true),
        ("#.#", "a.b.c", true),
        ("#.a", "a", true),
        ("#.a", "b.c.a", true),
        ("a.#", "a", true),
        ("a.#", "b", false),
        ("*.#", "", false),
        ("*.#", "a", true),
        ("a.*.b", "a..b", true),
        ("a.*", "a.", true),
        ("a..b", "a..b", true),
        ("a..b", "a.b", false),
        ("a*", "ab", false),
        ("a*", "a*", true),
        ("A", "a", false),
        (".a", "a", false),
        (".a", ".a", true),
    ];
    for (pattern, key, expected) in table {
        assert_eq!(hits(pattern, key), expected, "{pattern:?} on {key:?}");
    }
}

fn naive(pattern: &[&str], key: &[&str]) -> bool {
    match pattern.split_first() {
        None => key.is_empty(),
        Some((&"#", rest)) => (0..=key.len()).any(|skip| naive(rest, &key[skip..])),
        Some((word, rest)) => key
            .split_first()
            .is_some_and(|(first, tail)| (*word == "*" || word == first) && naive(rest, tail)),
    }
}

fn split(text: &str) -> Vec<&str> {
    if text.is_empty() {
        Vec::new()
    } else {
        text.split('.').collect()
    }
}

fn joined(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(words), 0..6).prop_map(|words| words.join("."))
}

proptest! {
    #[test]
    fn the_trie_agrees_with_a_naive_matcher(
        patterns in prop::collection::vec(joined(&["a", "b", "*", "#", ""]), 1..12),
        gone in 0usize..12,
        key in joined(&["a", "b", "c", ""]),
    ) {
        let mut trie = Trie::default();
        for (at, pattern) in patterns.iter().enumerate() {
            trie.insert(pattern.as_bytes(), &Target::Queue(QueueId(at as u64)));
        }
        for (at, pattern) in patterns.iter().enumerate().take(gone) {
            trie.remove(pattern.as_bytes(), &Target::Queue(QueueId(at as u64)));
        }
        let mut found = Vec::new();
        trie.matches(key.as_bytes(), &mut |targets| {
            found.extend(targets.0.iter().map(|(target, _)| target.clone()));
        });
        found.sort();
        let expected = patterns.iter().enumerate().skip(gone)
            .filter(|(_, pattern)| naive(&split(pattern), &split(&key)))
            .map(|(at, _)| Target::Queue(QueueId(at as u64)))
            .collect::<Vec<_>>();
        prop_assert_eq!(found, expected);
        for (at, pattern) in patterns.iter().enumerate().skip(gone) {
            trie.remove(pattern.as_bytes(), &Target::Queue(QueueId(at as u64)));
        }
        prop_assert_eq!(trie.nodes_in_use(), 1);
    }
}
