//! Hexadecimal, as Nix calls it base 16.

/// Writes bytes as lower-case hexadecimal digits, two of each byte.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
