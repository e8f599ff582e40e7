//! The layout of every method's arguments, checked before the generated parser sees them.
//!
//! Letters: `1 2 4 8` octets of a number, `b` one octet of bits, `s` shortstr, `S` longstr, `T` table.

use super::table::{Names, check_table, longstr, shortstr, take};

/// Why arguments are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// They do not fit the layout, a table in them is malformed, or something is left over.
    Shape,
    /// A shortstr is not UTF-8.
    Utf8,
}

/// The layout of a method; `None` for ids nobody knows.
pub(super) fn of(class_id: u16, method_id: u16) -> Option<&'static [u8]> {
    Some(match (class_id, method_id) {
        (10, 10) => b"11TSS",
        (10, 11) => b"TsSs",
        (10, 20 | 21) => b"S",
        (10, 30 | 31) => b"242",
        (10, 40) => b"ssb",
        (10, 41) => b"s",
        (10, 50) => b"2s22",
        (10, 51 | 61 | 71) => b"",
        (10, 60) => b"s",
        (10, 70) => b"Ss",
        (20, 10) => b"s",
        (20, 11) => b"S",
        (20, 20 | 21) => b"b",
        (20, 40) => b"2s22",
        (20, 41) => b"",
        (30, 10) => b"sb",
        (30, 11) => b"2",
        (40, 10) => b"2ssbT",
        (40, 20) => b"2sb",
        (40, 30 | 40) => b"2sssbT",
        (40, 11 | 21 | 31 | 51) => b"",
        (50, 10) => b"2sbT",
        (50, 11) => b"s44",
        (50, 20) => b"2sssbT",
        (50, 30 | 40) => b"2sb",
        (50, 31 | 41) => b"4",
        (50, 50) => b"2sssT",
        (50, 21 | 51) => b"",
        (60, 10) => b"42b",
        (60, 20) => b"2ssbT",
        (60, 30) => b"sb",
        (60, 21 | 31 | 72) => b"s",
        (60, 50) => b"2sss",
        (60, 60) => b"s8bss",
        (60, 71) => b"8bss4",
        (60, 100 | 110) => b"b",
        (60, 11 | 111) => b"",
        (85, 10) => b"b",
        (85, 11) => b"",
        (90, 10 | 11 | 20 | 21 | 30 | 31) => b"",
        _ => return None,
    })
}

/// Whether `arguments` are exactly what `layout` says. Linear, no allocation.
pub(super) fn check(layout: &[u8], mut arguments: &[u8]) -> Result<(), Fault> {
    for letter in layout {
        arguments = match letter {
            b's' => {
                let (text, rest) = shortstr(arguments).ok_or(Fault::Shape)?;
                std::str::from_utf8(text).map_err(|_| Fault::Utf8)?;
                rest
            }
            b'S' => longstr(arguments).ok_or(Fault::Shape)?.1,
            b'T' => {
                let (body, rest) = longstr(arguments).ok_or(Fault::Shape)?;
                if !check_table(body, Names::Utf8, 1) {
                    return Err(Fault::Shape);
                }
                rest
            }
            b'b' => take(arguments, 1).ok_or(Fault::Shape)?.1,
            digit => {
                let n = usize::from(digit - b'0');
                take(arguments, n).ok_or(Fault::Shape)?.1
            }
        };
    }
    if arguments.is_empty() {
        Ok(())
    } else {
        Err(Fault::Shape)
    }
}
