//! Commands that add content, whose path is made from its bytes.

use super::case::{Case, fails, works};
use super::server::Transport;

const WEAK: &str = "weak-content-address: ";
const FORGEABLE: &str = "MD5 and SHA-1 can be forged: such an address wants a quorum; nix-daemon takes it";
const LOGS: &str = "logs have no operation: a unix:// client reads them in its own root. 'nix log --store file://…' finds \
                    this one";
const OFFSETS: &str = "Nix 2.17 to 2.34 leaves the offsets of self-references out of the address, so it stands for nothing \
                       alone; nix-daemon takes it";

pub fn adding() -> Vec<Case> {
    let mut cases = files();
    cases.extend(modes());
    cases.extend(evaluation());
    cases.extend(rewriting());
    cases
}

fn files() -> Vec<Case> {
    vec![
        works("add-file", "nix store add-file --store $S $W/one.txt", "-one.txt"),
        works("add-path", "nix store add-path --store $S $W/tree", "-tree"),
        works("add-path-again", "nix store add-path --store $S $W/tree", "-tree"),
        works("nix-store-add", "NIX_REMOTE=$S nix-store --add $W/two.txt", "-two.txt"),
        works("nix-store-add-tree", "NIX_REMOTE=$S nix-store --add $W/tree", "-tree"),
        works("nix-store-add-fixed", "NIX_REMOTE=$S nix-store --add-fixed sha256 $W/one.txt", "-one.txt"),
        works("nix-store-add-fixed-r", "NIX_REMOTE=$S nix-store --add-fixed --recursive sha256 $W/tree", "-tree"),
        works("nix-store-add-fixed-sha512", "NIX_REMOTE=$S nix-store --add-fixed sha512 $W/one.txt", "-one.txt"),
        fails("nix-store-add-fixed-sha1", "NIX_REMOTE=$S nix-store --add-fixed sha1 $W/one.txt", WEAK)
            .unlike(FORGEABLE),
        fails("nix-store-add-fixed-md5", "NIX_REMOTE=$S nix-store --add-fixed --recursive md5 $W/tree", WEAK)
            .unlike(FORGEABLE),
        works("prefetch-file", "nix store prefetch-file --store $S --json file://$W/one.txt", "storePath"),
        works("prefetch-url", "NIX_REMOTE=$S nix-prefetch-url file://$W/one.txt", ""),
    ]
}

fn modes() -> Vec<Case> {
    vec![
        works("add", "nix store add --store $S --name newadd $W/tree", "-newadd"),
        works("add-dry", "nix store add --dry-run --store $S --name dry $W/tree", "-dry"),
        works("add-flat", "nix store add --store $S --mode flat --name f256 $W/one.txt", "-f256"),
        works("add-flat-sha512", "nix store add --store $S --mode flat --hash-algo sha512 --name f512 $W/one.txt", "-f512"),
        works("add-nar-sha512", "nix store add --store $S --mode nar --hash-algo sha512 --name n512 $W/tree", "-n512"),
        works("add-text", "nix store add --store $S --mode text --name t.txt $W/one.txt", "-t.txt"),
        fails("add-sha1", "nix store add --store $S --mode flat --hash-algo sha1 --name f1 $W/one.txt", WEAK)
            .unlike(FORGEABLE),
        fails("add-md5", "nix store add --store $S --mode nar --hash-algo md5 --name m5 $W/one.txt", WEAK).unlike(FORGEABLE),
    ]
    .into_iter()
    .chain([
        fails(
            "add-git",
            "nix store add --extra-experimental-features git-hashing --store $S --mode git --hash-algo sha1 --name g1 $W/tree",
            WEAK,
        )
        .unlike(FORGEABLE),
    ])
    .map(|case| case.since("2.20"))
    .chain([
        works(
            "add-git-sha256",
            "nix store add --extra-experimental-features git-hashing --store $S --mode git --hash-algo sha256 --name g256 $W/tree",
            "-g256",
        )
        .since("2.30"),
        works(
            "add-blake3",
            "nix store add --extra-experimental-features blake3-hashes --store $S --hash-algo blake3 --name b3 $W/tree",
            "-b3",
        )
        .since("2.30"),
        // Whoever has not enabled what the two above need can list nothing more.
        fails("path-info-all-experimental", "nix path-info --store $S --all", "is disabled").since("2.30"),
    ])
    .collect()
}

fn evaluation() -> Vec<Case> {
    vec![
        works(
            "eval-tofile",
            "nix eval --store $S --raw --expr 'builtins.toFile \"x\" \"y ${builtins.toFile \"z\" \"zz\"}\"'",
            "-x",
        ),
        works("eval-tofile-lengths", TO_FILES, "-17"),
        works("eval-path", "nix eval --store $S --raw --impure --expr '\"${./tree}\"'", "-tree"),
        works("instantiate", "NIX_REMOTE=$S nix-instantiate $W/hello2.nix", "-hello2.drv"),
        works("instantiate-closure", "NIX_REMOTE=$S nix-instantiate $W/closure.nix --argstr n 8", "$DRV"),
    ]
}

/// Files of 0 to 17 bytes: their contents are padded in every way there is.
const TO_FILES: &str = "nix eval --store $S --json --expr '
    let text = n: if n == 0 then \"\" else \"x\" + text (n - 1);
    in builtins.genList (n: builtins.toFile \"length-${toString n}\" (text n)) 18'";

fn rewriting() -> Vec<Case> {
    vec![
        works("copy-to", "nix copy --from $LS --to $S $C", "copying 10 paths"),
        works("make-ca-json", "nix store make-content-addressed --json --store $S $T", "rewrites"),
        works("make-ca-to", "nix store make-content-addressed --from $L --to $S $T", "rewrote '$T'"),
        fails("make-ca", "nix store make-content-addressed --store $S $C", WEAK).since("2.17").unlike(OFFSETS),
        works("make-ca", "nix store make-content-addressed --store $S $C", "rewrote '$C'")
            .before("2.17")
            .unlike("nix-daemon 2.34 computes another address than this client; both are understood here"),
        works("copy-log", "nix store copy-log --from $L --to $S $DRV", ""),
        fails("log-copied", "nix log --store $S $DRV", "").over(Transport::SshNg),
        fails("log-copied", "nix log --store $S $DRV", "is not available").over(Transport::Unix).unlike(LOGS),
    ]
}
