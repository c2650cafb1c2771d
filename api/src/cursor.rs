//! Cursors: where a page ended, as text that a client hands back unread.

use std::fmt::Write;

/// The bytes that say where a page ended, as text for a URL. Its order is that of the bytes.
///
/// ```
/// use millstream_api::{decode_cursor, encode_cursor};
/// assert_eq!(decode_cursor(&encode_cursor(b"tea")), Some(b"tea".to_vec()));
/// assert_eq!(decode_cursor("no cursor"), None);
/// ```
pub fn encode_cursor(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("strings take all");
    }
    text
}

/// The bytes of a cursor; `None` for text that is none.
pub fn decode_cursor(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let digit = |c: u8| char::from(c).to_digit(16);
    pairs
        .iter()
        .map(|[a, b]| u8::try_from(digit(*a)? * 16 + digit(*b)?).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_and_other_text_is_refused() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode_cursor(&encode_cursor(&all)), Some(all));
        for text in ["0", "0g", "ä", "+1", "é1"] {
            assert_eq!(decode_cursor(text), None, "{text}");
        }
    }
}
