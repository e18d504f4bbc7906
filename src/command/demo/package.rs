//! What is built in the demonstration: a library, a program that refers to it, and something that lies about its contents.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use nix_archive::nar::{NamedNode, Node, encode_tree};
use store_backend::store::hash_part_of;
use verifier::{
    AddressRequest, ContentAddress, ContentAddressMethod, HashAlgorithm, NarDigest, PathInfo, SecretKey, Signature,
    StoreDir, StorePath, digest_nar,
};

use super::stage::Stage;
use crate::command::CommandError;

/// What the library holds: enough of it that a flipped bit in the middle of its NAR falls there.
const GREETING: &str = "\
These bytes are what two builders vouched for: not the same package, not the same version, not the same
source, but the same bytes. Each of them built it on a machine of its own, and found what the other had
found. Whoever wants to slip something in has to break into both, in the same way and for the same path.
";

/// A path as somebody built it.
#[derive(Debug, Clone)]
pub(super) struct Package {
    pub(super) info: PathInfo,
    pub(super) nar: Vec<u8>,
}

impl Package {
    /// Builds a library.
    pub(super) fn library() -> Self {
        let greeting = Node::Regular { executable: false, contents: GREETING.as_bytes() };
        let share = [NamedNode { name: b"greeting", node: greeting }];
        let nar = encode(&Node::Directory(&[NamedNode { name: b"share", node: Node::Directory(&share) }]));
        Self::input_addressed("quorum-demo-library-1.0", nar, BTreeSet::new())
    }

    /// Builds a program that refers to the library.
    pub(super) fn program(library: &Self) -> Self {
        let script = format!("#!/bin/sh\nexec cat {}/share/greeting\n", library.path());
        let hello = Node::Regular { executable: true, contents: script.as_bytes() };
        let bin = [NamedNode { name: b"quorum-demo", node: hello }];
        let nar = encode(&Node::Directory(&[NamedNode { name: b"bin", node: Node::Directory(&bin) }]));
        Self::input_addressed("quorum-demo-1.0", nar, [library.info.path.clone()].into())
    }

    /// Makes something whose content address is that of other contents.
    pub(super) fn liar() -> Self {
        let file = |contents| encode(&Node::Regular { executable: false, contents });
        let method = ContentAddressMethod::Nar;
        let request = AddressRequest { method, algorithm: HashAlgorithm::Sha256, own_hash_part: None };
        let stated = digest(&file(b"what the address is of\n"), Some(&request));
        let address = ContentAddress::new(stated.address.expect("every NAR has an address over itself"));
        let nar = file(b"something quite different\n");
        let mut liar = Self::input_addressed("quorum-demo-source", nar, BTreeSet::new());
        let made = address.make_path(&StoreDir::default(), "quorum-demo-source", &BTreeSet::new(), false);
        liar.info.path = made.expect("a path without references can have such an address");
        liar.info.content_address = Some(address);
        liar
    }

    /// Names a path as a build would: the hash part says nothing of the contents, so somebody has to vouch for them.
    fn input_addressed(name: &str, nar: Vec<u8>, references: BTreeSet<StorePath>) -> Self {
        let NarDigest { nar_hash, nar_size, .. } = digest(&nar, None);
        let recipe = encode(&Node::Regular { executable: false, contents: name.as_bytes() });
        let mut hash_part = [0; 20];
        hash_part.copy_from_slice(&digest(&recipe, None).nar_hash.as_bytes()[..20]);
        let info = PathInfo {
            path: StorePath::from_parts(hash_part, name).expect("the names here are names of store paths"),
            deriver: None,
            nar_hash,
            nar_size,
            references,
            registration_time: 0,
            ultimate: false,
            signatures: BTreeSet::new(),
            content_address: None,
        };
        Self { info, nar }
    }

    /// Returns the full path.
    pub(super) fn path(&self) -> String {
        StoreDir::default().render_path(&self.info.path)
    }

    /// Returns the same with signatures by these keys.
    pub(super) fn signed(&self, keys: &[&SecretKey]) -> Self {
        let mut signed = self.clone();
        signed.info.signatures.extend(keys.iter().map(|key| self.signature(key).to_string()));
        signed
    }

    /// Returns the same with one signature in two spellings: base64 leaves 4 bits of the last character unused, and decoders
    /// that do not look at them take both for the same bytes.
    pub(super) fn signed_in_two_spellings(&self, key: &SecretKey) -> Self {
        let text = self.signature(key).to_string();
        let unpadded = text.trim_end_matches('=');
        let (before, last) = unpadded.split_at(unpadded.len() - 1);
        let other = match last {
            "A" => 'B',
            "Q" => 'R',
            "g" => 'h',
            _ => 'x',
        };
        let mut signed = self.clone();
        signed.info.signatures.extend([format!("{before}{other}=="), text]);
        signed
    }

    fn signature(&self, key: &SecretKey) -> Signature {
        key.sign(&self.info.fingerprint(&StoreDir::default()).expect("no NAR is empty"))
    }
}

/// Writes paths as a binary cache in a folder of the stage.
///
/// # Errors
/// When that fails.
pub(super) fn write_cache(stage: &Stage, folder: &str, packages: &[&Package]) -> Result<(), CommandError> {
    stage.write(&format!("{folder}/nix-cache-info"), "StoreDir: /nix/store\n")?;
    for package in packages {
        let info = &package.info;
        let url = format!("nar/{}.nar", info.nar_hash.to_nix32());
        stage.write(&format!("{folder}/{url}"), &package.nar)?;
        let references: Vec<String> = info.references.iter().map(StorePath::to_basename).collect();
        let mut narinfo = format!(
            "StorePath: {}\nURL: {url}\nCompression: none\nNarHash: {}\nNarSize: {}\nReferences: {}\n",
            package.path(),
            info.nar_hash,
            info.nar_size,
            references.join(" ")
        );
        for signature in &info.signatures {
            let _ = writeln!(narinfo, "Sig: {signature}");
        }
        if let Some(address) = &info.content_address {
            let _ = writeln!(narinfo, "CA: {address}");
        }
        stage.write(&format!("{folder}/{}.narinfo", hash_part_of(&info.path)), narinfo)?;
    }
    Ok(())
}

fn encode(tree: &Node<'_>) -> Vec<u8> {
    let mut nar = Vec::new();
    encode_tree(&mut nar, tree).expect("the trees here are sorted and small");
    nar
}

fn digest(nar: &[u8], request: Option<&AddressRequest>) -> NarDigest {
    digest_nar(nar, request).expect("what was encoded is a NAR")
}
