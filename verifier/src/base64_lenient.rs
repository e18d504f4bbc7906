//! Base64 as its writers really produce it.
//!
//! The same 64 bytes can be written in many ways: without padding, or with other bits behind the last one. Every
//! spelling of one signature must count as that one signature, so all of them decode, and only the bytes are compared.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Decodes `text`, which may lack padding, hold white space, or carry stray bits in its last character.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    if text.contains(|c: char| c.is_ascii_whitespace()) {
        let dense: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        return LENIENT.decode(dense);
    }
    LENIENT.decode(text)
}

/// Encodes `bytes` in the one canonical spelling.
pub(crate) fn encode(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
