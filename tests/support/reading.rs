//! Commands that ask and read.

use super::case::{Case, fails, works};
use super::server::Transport;

pub fn reading() -> Vec<Case> {
    let mut cases = vec![
        works("copy-to", "nix copy --from $LS --to $S $C", "copying 10 paths"),
        works("copy-to-drv", "nix copy --from $L --to $S --derivation $DRV", "copying 8 paths"),
    ];
    cases.extend(path_infos());
    cases.extend(contents());
    cases.extend(queries());
    cases
}

fn path_infos() -> Vec<Case> {
    vec![
        works(
            "path-info",
            "nix path-info --store $S --sigs -r --json $C |
             jq -S 'walk(if type == \"object\" then del(.registrationTime) else . end)'",
            "\"narHash\"",
        ),
        works("path-info-S", "nix path-info --store $S -rsSh $C", "$A"),
        works(
            "path-info-all",
            "nix path-info --store $S --all --json |
             jq -S 'walk(if type == \"object\" then del(.registrationTime) else . end)'",
            "$DRV",
        ),
        works("path-info-missing", "nix path-info --store $S --json $NOPE", "$NOPE"),
        works("path-from-hash-part", "nix store path-from-hash-part --store $S ${C:11:32}", "$C").since("2.20"),
        fails(
            "path-from-hash-part-missing",
            "nix store path-from-hash-part --store $S ${NOPE:11:32}",
            "no store path corresponding to",
        )
        .since("2.20"),
        works("dump-db", "NIX_REMOTE=$S nix-store --dump-db", "$DRV"),
        fails("load-db", "NIX_REMOTE=$S nix-store --load-db </dev/null", "don't have sufficient rights"),
    ]
}

fn contents() -> Vec<Case> {
    vec![
        works("ls", "nix store ls --store $S -lR $T", "./share/a/1.txt"),
        works("ls-file", "nix store ls --store $S -l $C", "-r--r--r--"),
        works("ls-json", "nix store ls --store $S --json -R $T", "\"1.txt\""),
        works("ls-inside", "nix store ls --store $S -l $T/lib", "binary.so"),
        fails("ls-missing", "nix store ls --store $S $T/nope", "does not exist"),
        works("cat", "nix store cat --store $S $C", "node-7-file"),
        works("cat-inside", "nix store cat --store $S $T/share/a/1.txt", "node-1-tree 1"),
        fails("cat-directory", "nix store cat --store $S $T/share", "is not a regular file"),
        fails("cat-missing", "nix store cat --store $S $NOPE", "is not"),
        works("dump-path", "nix store dump-path --store $S $LARGE | sha256sum", "-"),
        fails("log-drv", "nix log --store $S $DRV", "is not available").over(Transport::Unix),
        fails("log-drv", "nix log --store $S $DRV", "").over(Transport::SshNg),
        fails("log-out", "nix log --store $S $C", "is not available").over(Transport::Unix),
        fails("log-out", "nix log --store $S $C", "").over(Transport::SshNg),
        fails("nix-store-l", "NIX_REMOTE=$S nix-store -l $DRV", "is not available").over(Transport::Unix),
        fails("nix-store-l", "NIX_REMOTE=$S nix-store -l $DRV", "").over(Transport::SshNg),
        works("drv-show", "nix derivation show --store $S $DRV", "node-7-file").since("2.13"),
        works("drv-show-r", "nix derivation show --store $S -r $DRV", "node-0-file").since("2.13"),
        works("drv-show-r", "nix show-derivation --store $S -r $DRV", "node-0-file").before("2.13"),
        works("why-depends", "nix why-depends --store $S $C $A", "$A"),
        works("why-depends-all", "nix why-depends --all --precise --store $S $C $A", "node-0-file"),
        works("diff-closures", "nix store diff-closures --store $S $C $T", "node: "),
    ]
}

fn queries() -> Vec<Case> {
    vec![
        works("q-qR", "NIX_REMOTE=$S nix-store -qR $C", "$A"),
        works("q-qR-outputs", "NIX_REMOTE=$S nix-store -qR --include-outputs $DRV", "$DRV"),
        fails("q-qR-missing", "NIX_REMOTE=$S nix-store -qR $NOPE", "path '$NOPE' is not valid"),
        works("q-references", "NIX_REMOTE=$S nix-store -q --references $C", "$DEV"),
        works("q-referrers", "NIX_REMOTE=$S nix-store -q --referrers $A", "$T"),
        works("q-referrers-self", "NIX_REMOTE=$S nix-store -q --referrers $SELF", "$SELF"),
        works("q-referrers-closure", "NIX_REMOTE=$S nix-store -q --referrers-closure $A", "$C"),
        works("q-deriver", "NIX_REMOTE=$S nix-store -q --deriver $C", "$DRV"),
        works("q-valid-derivers", "NIX_REMOTE=$S nix-store -q --valid-derivers $C", "$DRV").since("2.10"),
        works("q-outputs", "NIX_REMOTE=$S nix-store -q --outputs $DRV", "$C"),
        works("q-binding", "NIX_REMOTE=$S nix-store -q --binding shape $DRV", "file"),
        works("q-hash-size", "NIX_REMOTE=$S nix-store -q --hash $C; NIX_REMOTE=$S nix-store -q --size $C", "sha256:"),
        works("q-roots", "NIX_REMOTE=$S nix-store -q --roots $C", ""),
        works("q-tree", "NIX_REMOTE=$S nix-store -q --tree $C", "$A"),
        works("q-graph", "NIX_REMOTE=$S nix-store -q --graph $C", "digraph G"),
        works("q-graphml", "NIX_REMOTE=$S nix-store -q --graphml $C", "<graphml"),
        works("check-validity", "NIX_REMOTE=$S nix-store --check-validity $C", ""),
        fails("check-validity-missing", "NIX_REMOTE=$S nix-store --check-validity $NOPE", "path '$NOPE' is not valid"),
        works("print-invalid", "NIX_REMOTE=$S nix-store --check-validity --print-invalid $C $NOPE", "$NOPE"),
        works("verify-path", "NIX_REMOTE=$S nix-store --verify-path $C", ""),
    ]
}
