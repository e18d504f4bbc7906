use std::fmt;

/// The longest key, in bytes: what S3 allows.
const MAX_LENGTH: usize = 1024;

/// The name of an object: parts joined by `/`, none of them empty, `.` or `..`, of characters that neither a file system
/// nor a URL gives a meaning of its own.
///
/// Whatever a key is made from, it cannot leave the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Makes a key; none if the text is not one.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let fine = |c: char| c.is_ascii_alphanumeric() || "+-._?=!:^".contains(c);
        let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(fine);
        (text.len() <= MAX_LENGTH && text.split('/').all(part)).then_some(Self(text))
    }

    /// Returns the key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
