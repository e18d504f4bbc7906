//! Where a NAR ends: it says so itself, which matters where it comes over a connection that stays open.

/// Bytes of a string's length, and what strings are padded to.
const WORD: usize = 8;

/// Bytes of the longest word of the format that matters here, `contents`.
const LONGEST: usize = 8;

/// Finds the end of a NAR that passes by, in constant memory. It does not check it: of what is no NAR it may find no end, or any.
///
/// Source: Nix `src/libutil/archive.cc`.
#[derive(Debug, Clone, Default)]
pub struct NarEnd {
    /// The bytes of the length or of the word that is being read.
    gathered: Vec<u8>,
    /// What comes next; none for a length.
    string: Option<Rest>,
    /// Whether the next string is a name, a target or contents, which may be any bytes.
    opaque: bool,
    /// Parentheses that are open.
    depth: u64,
    reached: bool,
}

/// What is left of a string.
#[derive(Debug, Clone, Copy)]
struct Rest {
    /// Bytes, with the padding.
    left: u64,
    /// Bytes of the word itself that are looked at.
    word: usize,
}

impl NarEnd {
    /// Says whether the end has passed by.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.reached
    }

    /// Looks at the next bytes, and returns how many of them belong to the NAR.
    pub fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && !self.reached {
            let rest = &bytes[at..];
            at += match self.string {
                None => self.take_length(rest),
                Some(string) => self.take_string(string, rest),
            };
        }
        at
    }

    fn take_length(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(WORD - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..count]);
        if let Ok(length) = <[u8; WORD]>::try_from(self.gathered.as_slice()) {
            let length = u64::from_le_bytes(length);
            self.gathered.clear();
            let word = usize::try_from(length).ok().filter(|length| !self.opaque && *length <= LONGEST).unwrap_or(0);
            // What is so long that it cannot be padded is no string, and never ends.
            let left = length.checked_next_multiple_of(WORD as u64).unwrap_or(u64::MAX);
            self.take_string(Rest { left, word }, &[]);
        }
        count
    }

    fn take_string(&mut self, mut string: Rest, bytes: &[u8]) -> usize {
        let count = usize::try_from(string.left).map_or(bytes.len(), |left| bytes.len().min(left));
        let looked_at = count.min(string.word - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..looked_at]);
        string.left -= count as u64;
        self.string = Some(string);
        if string.left == 0 {
            self.string = None;
            self.end_string();
        }
        count
    }

    fn end_string(&mut self) {
        let opaque = std::mem::take(&mut self.opaque);
        match self.gathered.as_slice() {
            _ if opaque => {}
            b"(" => self.depth += 1,
            b")" => {
                self.depth = self.depth.saturating_sub(1);
                self.reached = self.depth == 0;
            }
            b"name" | b"target" | b"contents" => self.opaque = true,
            _ => {}
        }
        self.gathered.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_of_what_is_no_nar() {
        for byte in [0, 1, 0x28, 0xFF] {
            let mut end = NarEnd::default();
            for _ in 0..1_000 {
                end.pass(&[byte; 1_000]);
                assert!(end.gathered.capacity() <= 64, "{byte}");
            }
        }
    }
}
