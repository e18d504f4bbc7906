//! Commands that bring paths and signatures, and take paths elsewhere.

use super::case::{Case, fails, works};

const ONE_KEY: &str = "nix-daemon wants one signature by a trusted key, whatever the policy";
const BELIEVES: &str = "nix-daemon believes a trusted client; nobody may waive the quorum";

/// What falls short of the quorum.
pub fn refusing() -> Vec<Case> {
    vec![
        fails(
            "copy-to-unsigned",
            "nix copy --from $L --to $S $C",
            "error: refused $A: quorum-missing: 0 of 2 of builders (any 2 of a, b and c could still sign)",
        ),
        fails(
            "copy-to-signed-once",
            "nix copy --from $L1 --to $S $C",
            "error: refused $A: quorum-missing: 1 of 2 of builders (a signed; b or c could still sign)",
        )
        .unlike(ONE_KEY),
        fails("copy-to-no-check-sigs", "nix copy --no-check-sigs --from $L --to $S $DEV", "0 of 2 of builders")
            .unlike(BELIEVES),
        fails(
            "import-unsigned",
            "NIX_REMOTE=$L nix-store --export $A | NIX_REMOTE=$S nix-store --import",
            "refused $A",
        )
        .unlike(BELIEVES),
        fails("path-info-refused", "nix path-info --store $S $A", "path '$A' is not valid").unlike(ONE_KEY),
        works("path-info-none", "nix path-info --store $S --all | wc -l", "0").unlike(ONE_KEY),
    ]
}

/// What brings paths and signatures, and takes paths elsewhere.
pub fn copying() -> Vec<Case> {
    vec![
        works("ping", "nix store ping --store $S", "Store URL: "),
        works("info-json", "nix store info --json --store $S | jq -c 'del(.version, .url)'", "trusted").since("2.20"),
        works("copy-to", "nix copy --from $LS --to $S $C $DEV && nix-store --store $S --check-validity $C", ""),
        works("copy-to-again", "nix copy --from $LS --to $S $C $DEV", "copying 0 paths"),
        works("copy-to-signed", "nix copy --from $LS --to $S $DEV", "copying 0 paths"),
        works("copy-to-no-check-sigs-again", "nix copy --no-check-sigs --from $L --to $S $C", "copying 0 paths"),
        works("copy-to-drv", "nix copy --from $L --to $S --derivation $DRV && nix-store --store $S --check-validity $DRV", ""),
        works("copy-to-substitute-p", "nix copy --substitute-on-destination --from $LS --to $S $C", "copying 0 paths"),
        fails(
            "copy-to-substitute",
            "nix copy --substitute-on-destination --from $LS --to $S $DRV'^out'",
            "!out: quorum-missing: 0 of 2 of builders",
        )
        .since("2.13")
        .unlike("the realisation that comes along wants its own quorum; nix-daemon takes it unsigned"),
        works("sign", "nix store sign --store $S -k $K3 -r $C", "added 10 signatures"),
        works("sign-again", "nix store sign --store $S -k $K3 -r $C", "added 0 signatures"),
        works("path-info-signed", "nix path-info --store $S --sigs -r $C", "builder-c:"),
        works(
            "copy-sigs",
            "nix key generate-secret --key-name dave-1 >$W/k4
             nix copy --no-check-sigs --from $L --to $W/dave $A
             nix store sign --store $W/dave -k $W/k4 $A
             nix store copy-sigs --store $S -s $W/dave $A",
            "imported 1 signatures",
        ),
        works("path-info-unknown-key", "nix path-info --store $S --sigs $A | grep -o dave-1", "dave-1"),
        fails("verify", "nix store verify --store $S -r --sigs-needed 2 $C", "is untrusted"),
        works(
            "verify-trust",
            "nix store verify --store $S -r --sigs-needed 2 --option trusted-public-keys \"$P1 $P2\" $C",
            "",
        ),
        works("verify-all", "nix store verify --store $S --all --no-trust", ""),
        works("copy-from", "nix copy --no-check-sigs --from $S --to $W/dst $C && nix path-info --store $W/dst -r $C | wc -l", "10"),
        works("copy-from-again", "nix copy --no-check-sigs --from $S --to $W/dst $C", "copying 0 paths"),
        works("copy-from-checked", "nix copy --from $S --to $W/checked $C --option trusted-public-keys \"$P1\"", ""),
        works("copy-from-tofile", "nix copy --from $S --to file://$W/cache $C; ls $W/cache/*.narinfo | wc -l", "10"),
        works("copy-to-fromfile", "nix copy --from file://$W/cache --to $S $C", "copying 0 paths"),
        fails("copy-from-missing", "nix copy --from $S --to $W/dst $NOPE", "error: path '$NOPE' is not valid")
            .same_status(),
        works("export", "NIX_REMOTE=$S nix-store --export $A $T | sha256sum", "-"),
        works("import", "NIX_REMOTE=$S nix-store --export $A $T | NIX_REMOTE=$S nix-store --import", "$T"),
        works(
            "as-substituter",
            "NIX_REMOTE=$W/sub nix-store -r $C --option substituters \"$S\" --option trusted-public-keys \"$P1\"",
            "$C",
        ),
        works(
            "as-substituter-build",
            "nix build --store $W/sub2 --no-link $C --option substituters \"$S\" --option trusted-public-keys \"$P1\" &&
             nix path-info --store $W/sub2 -r $C | wc -l",
            "10",
        ),
        fails(
            "as-substituter-untrusted",
            "nix build --store $W/sub3 --no-link $C --option substituters \"$S\"",
            "signed by any of the keys in 'trusted-public-keys'",
        ),
    ]
}
