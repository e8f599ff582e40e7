//! Finding a key's row, and the known key a wrong one was probably meant to be.

use super::keys::{Key, all};

/// The row for a key, and what its first `$` stands for.
#[must_use]
pub fn find(key: &str) -> Option<(&'static Key, &str)> {
    all().find_map(|row| matched(row.pattern, key).map(|name| (row, name)))
}

fn matched<'k>(pattern: &str, key: &'k str) -> Option<&'k str> {
    let (mut wanted, mut given) = (pattern.split('.'), key.split('.'));
    let mut name = "";
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(name),
            (Some("*"), Some(part)) if !part.is_empty() => return Some(name),
            // User names and tags may hold dots; only a last `$` takes them.
            (Some(w), Some(part)) if w.starts_with('$') && !part.is_empty() => {
                name = part;
                if w == "$user" || w == "$tag" {
                    let (_, rest) = key.split_once('.')?;
                    return Some(rest);
                }
            }
            (Some(w), Some(part)) if w == part => {}
            _ => return None,
        }
    }
}

/// The known key nearest to a wrong one, if it is near.
#[must_use]
pub fn nearest(key: &str) -> Option<String> {
    let candidates = all().map(|row| {
        // The caller's own segments stand in for the wildcards.
        let mut given = key.split('.');
        let mut parts = Vec::new();
        for part in row.pattern.split('.') {
            let own = given.next();
            let wild = part.starts_with('$') || part == "*";
            parts.push(if wild { own.unwrap_or(part) } else { part });
            if part == "*" {
                parts.extend(given.by_ref());
            }
        }
        parts.join(".")
    });
    let scored = candidates.map(|c| (distance(key, &c), c));
    let (best, name) = scored.min_by_key(|(d, _)| *d)?;
    (best > 0 && best <= 1 + key.len() / 6).then_some(name)
}

/// Edits between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_can_be_reached() {
        for row in all() {
            let key = row.pattern.replace(['$', '*'], "x1");
            let (found, _) = find(&key).unwrap_or_else(|| panic!("{key} is not found"));
            assert_eq!(found.pattern, row.pattern, "another row hides it");
        }
    }

    #[test]
    fn a_near_key_is_suggested_and_a_far_one_is_not() {
        let cases = [
            ("hartbeat", Some("heartbeat")),
            ("listener.tcp.default", Some("listeners.tcp.default")),
            ("disk_free_limit.absolut", Some("disk_free_limit.absolute")),
            ("loopback_user.guest", Some("loopback_users.guest")),
            ("entirely_something_else", None),
        ];
        for (key, want) in cases {
            assert!(find(key).is_none(), "{key}");
            assert_eq!(nearest(key).as_deref(), want, "{key}");
        }
    }

    #[test]
    fn a_user_name_may_hold_dots() {
        let (row, name) = find("loopback_users.first.last").unwrap();
        assert_eq!((row.pattern, name), ("loopback_users.$user", "first.last"));
    }
}
