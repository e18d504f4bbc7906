//! Keys, signatures that are spelled or made in unusual ways, and policies.

use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::{SigningKey, VerifyingKey};
use policy::Policy;
use verifier::{Fingerprint, KeyName, SecretKey, Signature};

/// Makes a key of a name from a seed byte; one seed under two names is one key renamed.
pub fn key(name: &str, seed: u8) -> SecretKey {
    SecretKey::from_seed(KeyName::new(name).expect("a key's name"), &[seed; 32])
}

pub fn alice() -> SecretKey {
    key("alice-1", 1)
}

pub fn bob() -> SecretKey {
    key("bob-1", 2)
}

pub fn carol() -> SecretKey {
    key("carol-1", 3)
}

/// A key that no policy here knows.
pub fn mallory() -> SecretKey {
    key("mallory-1", 66)
}

/// The gate's own.
pub fn gate_key() -> SecretKey {
    key("gate-1", 99)
}

/// A second signature by the key of a seed over the same fingerprint, made with another nonce: as valid, and other bytes.
pub fn sign_again(name: &str, seed: u8, fingerprint: &Fingerprint) -> String {
    let signing = SigningKey::from_bytes(&[seed; 32]);
    let mut expanded = ExpandedSecretKey::from(&signing.to_bytes());
    expanded.hash_prefix = [0xA5; 32];
    let verifying: VerifyingKey = signing.verifying_key();
    let signature = raw_sign::<sha2::Sha512>(&expanded, fingerprint.as_bytes(), &verifying);
    Signature::new(KeyName::new(name).expect("a key's name"), signature.to_bytes()).to_string()
}

/// The same 64 bytes, spelled otherwise: without padding, and with stray bits in the last character.
pub fn spelled_otherwise(signature: &str) -> [String; 2] {
    let bare = signature.trim_end_matches('=');
    let (rest, last) = bare.split_at(bare.len() - 1);
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let place = ALPHABET.find(last).expect("base64");
    let stray = &ALPHABET[place ^ 1..=place ^ 1];
    [bare.to_owned(), format!("{rest}{stray}==")]
}

/// Three builders, of whom two must agree, with what a test wants to be different.
#[derive(Clone, Default)]
pub struct Rules {
    /// Signers whose keys are revoked.
    pub revoked: &'static [&'static str],
    /// `recompute`, unless said otherwise.
    pub content_addressed: Option<&'static str>,
    /// A moment as TOML writes it.
    pub expires: Option<&'static str>,
    /// How many builders must agree; 2 unless said otherwise.
    pub at_least: Option<usize>,
    /// Further tables.
    pub more: String,
}

impl Rules {
    pub fn text(&self) -> String {
        let mut text = "version = 1\n".to_owned();
        if let Some(expires) = self.expires {
            text += &format!("expires = {expires}\n");
        }
        for (name, key) in [("alice", alice()), ("bob", bob()), ("carol", carol())] {
            let public = key.public();
            text += &match self.revoked.contains(&name) {
                true => format!("[signers.{name}]\nkeys = [{{ key = \"{public}\", revoked = \"2026 stolen\" }}]\n"),
                false => format!("[signers.{name}]\nkeys = [\"{public}\"]\n"),
            };
        }
        text += "[groups]\nbuilders = [\"alice\", \"bob\", \"carol\"]\n";
        text += &format!("[default]\nrequire = {{ at-least = {}, of = \"builders\" }}\n", self.at_least.unwrap_or(2));
        if let Some(how) = self.content_addressed {
            text += &format!("content-addressed = \"{how}\"\n");
        }
        text + &self.more
    }

    pub fn policy(&self) -> Policy {
        parse(&self.text())
    }
}

/// Two of three builders, and nothing else.
pub fn two_of_three() -> Policy {
    Rules::default().policy()
}

pub fn parse(text: &str) -> Policy {
    Policy::parse(text, "policy.toml").unwrap_or_else(|errors| panic!("{errors}"))
}
