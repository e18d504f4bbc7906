//! The listing of a NAR in Nix's `.ls` format, written while the archive passes by.

/// Longest listing that is written, in bytes; a NAR with more names has none. Real ones stay below 10 MB.
const MAX_LISTING: usize = 8 << 20;

/// Builds `{"root": …, "version": 1}` from the events of a NAR in wire order.
///
/// Source: Nix `src/libutil/nar-listing.cc`; members stand in alphabetical order, as Nix writes them.
pub(crate) struct Listing {
    json: Option<Vec<u8>>,
    /// For each open directory, whether an entry was written already.
    open: Vec<bool>,
}

impl Listing {
    pub(crate) fn new() -> Self {
        Self { json: Some(b"{\"root\":".to_vec()), open: Vec::new() }
    }

    pub(crate) fn start_directory(&mut self, name: Option<&[u8]>) {
        self.entry(name);
        self.push("{\"entries\":{");
        self.open.push(false);
    }

    pub(crate) fn end_directory(&mut self) {
        self.open.pop();
        self.push("},\"type\":\"directory\"}");
    }

    pub(crate) fn regular(&mut self, name: Option<&[u8]>, executable: bool, size: u64, nar_offset: u64) {
        self.entry(name);
        let executable = if executable { "\"executable\":true," } else { "" };
        self.push(&format!("{{{executable}\"narOffset\":{nar_offset},\"size\":{size},\"type\":\"regular\"}}"));
    }

    pub(crate) fn symlink(&mut self, name: Option<&[u8]>, target: &[u8]) {
        self.entry(name);
        self.push("{\"target\":");
        self.string(target);
        self.push(",\"type\":\"symlink\"}");
    }

    /// Returns the document, or none where it would be too long or a name is not UTF-8, which JSON cannot say.
    pub(crate) fn finish(mut self) -> Option<Vec<u8>> {
        self.push(",\"version\":1}");
        self.json
    }

    fn entry(&mut self, name: Option<&[u8]>) {
        if let Some(some_before) = self.open.last_mut() {
            let separator = if std::mem::replace(some_before, true) { "," } else { "" };
            self.push(separator);
        }
        if let Some(name) = name {
            self.string(name);
            self.push(":");
        }
    }

    fn string(&mut self, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.push(&serde_json::Value::from(text).to_string()),
            Err(_) => self.json = None,
        }
    }

    fn push(&mut self, text: &str) {
        if let Some(json) = self.json.as_mut() {
            json.extend_from_slice(text.as_bytes());
            if json.len() > MAX_LISTING {
                self.json = None;
            }
        }
    }
}
