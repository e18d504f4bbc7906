//! Commands that ask for builds. This store builds nothing, but knows what is built.

use super::case::{Case, fails, works};
use super::server::Transport;

const NO_BUILD: &str = "this store does not build: build it in your own store, then copy it here with its signatures";
const BUILDS: &str = "nix-daemon builds it";
const OWN_FILES: &str = "a unix:// client reads files in its own root, where nobody has put these";
const NO_TRACE: &str = "which output a content-addressed derivation has is found by its hash, which this store does not \
                        compute; ask for the output's path";

pub fn building() -> Vec<Case> {
    let mut cases = vec![
        works("copy-to", "nix copy --from $LS --to $S $C $DEV", "copying 10 paths"),
        works("copy-to-drv", "nix copy --from $L --to $S --derivation $DRV", "copying 8 paths"),
    ];
    cases.extend(valid());
    cases.extend(not_valid());
    cases.extend(content_addressed());
    cases.extend(remote());
    cases
}

fn valid() -> Vec<Case> {
    vec![
        works("build-path", "nix build --store $S --no-link $C", ""),
        works("build-path-json", "nix build --store $S --json --no-link $C", "$C"),
        works("build-drv", "nix build --store $S --json --no-link $DRV", "$C").before("2.13"),
        works("build-drv", "nix build --store $S --json --no-link $DRV'^*'", "$C").since("2.13"),
        works("build-drv-output", "nix build --store $S --json --no-link $DRV4'^dev'", "$DEV").since("2.13"),
        works("nix-build-valid", "NIX_REMOTE=$S nix-build --no-out-link $W/closure.nix --argstr n 8", "$C"),
        works("realise-drv-valid", "NIX_REMOTE=$S nix-store -r $DRV", "$C"),
        works("realise-out", "NIX_REMOTE=$S nix-store -r $C", "$C"),
        works("build-outlink", "nix build --store $S -o $W/result $C && readlink $W/result", "$C")
            .over(Transport::Unix),
        works("build-outlink", "nix build --store $S -o $W/result $C", "").over(Transport::SshNg),
        works("add-root", "NIX_REMOTE=$S nix-store -r $C --add-root $W/gcroot && readlink $W/gcroot", "$C")
            .over(Transport::Unix),
        works("add-root", "NIX_REMOTE=$S nix-store -r $C --add-root $W/gcroot", "").over(Transport::SshNg),
        works("eval-storepath", READ_STORE_PATH, "node-7-file").over(Transport::Unix),
        works("eval-storepath", READ_STORE_PATH, "node-7-file").over(Transport::SshNg).since("2.30"),
        // Older ones look for it on their own disk.
        fails("eval-storepath", READ_STORE_PATH, "No such file").over(Transport::SshNg).before("2.30"),
    ]
}

/// An evaluation that reads what is there.
const READ_STORE_PATH: &str = "nix eval --store $S --raw --impure --expr \"builtins.readFile (builtins.storePath $C)\"";

fn not_valid() -> Vec<Case> {
    vec![
        works("build-dry", "nix build --store $S --dry-run --no-link -f $W/hello2.nix", "hello2.drv"),
        fails("build", "nix build --store $S --no-link -f $W/hello.nix", NO_BUILD).unlike(BUILDS),
        fails("build-again", "nix build --store $S --no-link -f $W/hello.nix", NO_BUILD).unlike(BUILDS),
        fails("build-json", "nix build --store $S --json --no-link -f $W/hello.nix", NO_BUILD).unlike(BUILDS),
        fails("build-fail", "nix build --store $S --no-link -f $W/fail.nix", NO_BUILD),
        fails("build-path-missing", "nix build --store $S --no-link $NOPE", NO_BUILD),
        fails("build-rebuild", "nix build --store $S --rebuild --no-link -f $W/hello.nix", NO_BUILD).unlike(BUILDS),
        fails("build-repair", "nix build --store $S --repair --no-link -f $W/hello.nix", NO_BUILD)
            .since("2.20")
            .unlike(BUILDS),
        fails("build-eval-store", "nix build --eval-store $W/eval --store $S --no-link -f $W/hello3.nix", NO_BUILD)
            .unlike(BUILDS),
        fails("nix-build", "NIX_REMOTE=$S nix-build --no-out-link $W/hello2.nix", NO_BUILD).unlike(BUILDS),
        fails("realise-drv", "NIX_REMOTE=$S nix-store -r $(NIX_REMOTE=$S nix-instantiate $W/hello4.nix)", NO_BUILD)
            .unlike(BUILDS),
        fails("realise-missing", "NIX_REMOTE=$S nix-store -r $NOPE", NO_BUILD),
        fails("realise-check", "NIX_REMOTE=$S nix-store -r --check $DRV", NO_BUILD).unlike(BUILDS),
        fails("eval-ifd", IMPORT_FROM_DERIVATION, NO_BUILD).over(Transport::Unix).unlike(BUILDS),
        fails("eval-ifd", IMPORT_FROM_DERIVATION, NO_BUILD).over(Transport::SshNg).since("2.30").unlike(BUILDS),
        // Older ones look for what was built on their own disk.
        fails("eval-ifd", IMPORT_FROM_DERIVATION, NO_BUILD).over(Transport::SshNg).before("2.30"),
    ]
}

/// An evaluation that wants something built on the way.
const IMPORT_FROM_DERIVATION: &str = "nix eval --store $S --impure --expr '
    import (derivation {
      name = \"ifd\"; system = builtins.currentSystem;
      builder = \"/bin/sh\"; args = [ \"-c\" \"echo 1 > $out\" ];
    })'";

fn content_addressed() -> Vec<Case> {
    vec![
        fails("build-ca", "nix build --store $S --no-link -f $W/ca.nix", NO_BUILD).unlike(BUILDS),
        works("copy-to-ca", "nix copy --store $LCA --to $S -f $W/ca.nix", ""),
        works("copy-to-ca-again", "nix copy --store $LCA --to $S -f $W/ca.nix", ""),
        fails("build-ca-again", "nix build --store $S --no-link -f $W/ca.nix", NO_BUILD).unlike(NO_TRACE),
        fails("copy-from-ca", "nix copy --no-check-sigs --store $S --to $W/dst -f $W/ca.nix", NO_BUILD)
            .unlike(NO_TRACE),
        works(
            "copy-from-ca-path",
            "nix copy --no-check-sigs --from $S --to $W/dst2 $(nix path-info --store $LCA --all | grep ca-top$)",
            "ca-top",
        )
        .over(Transport::SshNg),
        fails("realisation-info", "nix realisation info --store $S --json -f $W/ca.nix", "")
            .since("2.20")
            .unlike(NO_TRACE),
        fails("realisation-info", "nix realisation info --store $S --json -f $W/ca.nix", "")
            .before("2.20")
            .over(Transport::Unix)
            .unlike(NO_TRACE),
        works("realisation-info", "nix realisation info --store $S --json -f $W/ca.nix", "-ca-top")
            .before("2.20")
            .over(Transport::SshNg)
            .same_status(),
        works("as-substituter-ca", SUBSTITUTE_CONTENT_ADDRESSED, "ca-top").over(Transport::SshNg),
        fails("as-substituter-ca", SUBSTITUTE_CONTENT_ADDRESSED, "ca-leaf").over(Transport::Unix).unlike(OWN_FILES),
    ]
}

/// A store that has nothing asks this one what the output is, and for the path.
const SUBSTITUTE_CONTENT_ADDRESSED: &str = "nix build --store $W/sub --json --no-link -f $W/ca.nix --max-jobs 0 \
    --option substituters \"$S\" --option trusted-public-keys \"$P1\"";

fn remote() -> Vec<Case> {
    vec![
        works(
            "as-builder-valid",
            "nix build --store $W/lb --no-link -f $W/closure.nix --argstr n 8 -j0 --builders \"$S $(uname -m)-linux\" \
             --option trusted-public-keys \"$P1\" && nix path-info --store $W/lb $C",
            "$C",
        ),
        fails(
            "as-builder",
            "nix build --store $W/lb --no-link -f $W/hello5.nix -j0 --builders \"$S $(uname -m)-linux\"",
            "and this store does not build",
        )
        .unlike(BUILDS),
    ]
}
