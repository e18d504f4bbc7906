//! How text that somebody else chose is shown: printable, on one line, bounded.

/// Longest piece of foreign text that is shown, in characters: a store path or a key name fits, a flood does not.
const MAX_PIECE: usize = 300;

/// Returns text as it may be shown: control and other unprintable characters escaped, and cut off after 300 characters.
///
/// What it returns holds no line end, no terminal sequence and no character that reorders others. Applied again it
/// changes nothing, so whoever is not sure escapes once more.
#[must_use]
pub fn escaped(text: &str) -> String {
    bounded(text, MAX_PIECE)
}

/// Escapes like [`escaped`], and cuts off after `limit` characters.
#[must_use]
pub fn bounded(text: &str, limit: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(limit));
    let (mut length, mut fits) = (0, 0);
    for character in text.chars() {
        let start = shown.len();
        match character {
            '\\' | '\'' | '"' => shown.push(character),
            other => shown.extend(other.escape_debug()),
        }
        length += shown[start..].chars().count();
        if length > limit {
            shown.truncate(fits);
            shown.push('…');
            return shown;
        }
        if length < limit {
            fits = shown.len();
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_foreign_text_on_one_printable_line() {
        let cases = [
            ("plain text stays", "ci-eu-1", "ci-eu-1"),
            ("quotes and backslashes stay, so that escaping twice changes nothing", r#"a\"b'"#, r#"a\"b'"#),
            ("a line end", "a\nb", r"a\nb"),
            ("a terminal sequence", "\u{1b}[2J", r"\u{1b}[2J"),
            ("a character that reorders others", "a\u{202e}b", r"a\u{202e}b"),
            ("letters of any script stay", "schlüssel", "schlüssel"),
        ];
        for (shows, text, expected) in cases {
            assert_eq!(escaped(text), expected, "{shows}");
            assert_eq!(escaped(&escaped(text)), expected, "{shows}, twice");
        }
    }

    #[test]
    fn cuts_at_the_limit_and_says_so() {
        assert_eq!(bounded("abcd", 4), "abcd");
        assert_eq!(bounded("abcde", 4), "abc…");
        assert_eq!(bounded("abc\n", 4), "abc…");
        assert_eq!(bounded("\n\n\n", 4), r"\n…");
        assert_eq!(escaped(&"\n".repeat(100_000)).chars().count(), 299);
    }
}
