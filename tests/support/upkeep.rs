//! Commands that look after a store.

use super::case::{Case, fails, works};

const KEEPS: &str =
    "this store keeps what it admitted, so none of it is garbage; delete paths by name with 'nix store delete'";
const COLLECTS: &str = "nix-daemon deletes what no root holds; nothing is deleted here but by name";

pub fn upkeep() -> Vec<Case> {
    let mut cases = vec![works("copy-to", "nix copy --from $LS --to $S $C $DEV", "copying 10 paths")];
    cases.extend(checks());
    cases.extend(roots());
    cases.extend(garbage());
    cases.extend(deletion());
    cases
}

fn checks() -> Vec<Case> {
    vec![
        works("verify-store", "NIX_REMOTE=$S nix-store --verify", "checking the store"),
        works("verify-contents", "NIX_REMOTE=$S nix-store --verify --check-contents", "checking the store"),
        works("verify-repair", "NIX_REMOTE=$S nix-store --verify --check-contents --repair", "checking the store"),
        fails("repair", "nix store repair --store $S $A", "is not supported by store"),
        fails("repair-path", "NIX_REMOTE=$S nix-store --repair-path $A", "is not supported by store"),
        works("optimise", "nix store optimise --store $S", ""),
        works("nix-store-optimise", "NIX_REMOTE=$S nix-store --optimise", ""),
    ]
}

fn roots() -> Vec<Case> {
    vec![
        works("print-roots", "NIX_REMOTE=$S nix-store --gc --print-roots", ""),
        works("print-live", "NIX_REMOTE=$S nix-store --gc --print-live", "$C")
            .unlike("all that is admitted is alive; to nix-daemon it is what a root holds"),
        works("print-dead", "NIX_REMOTE=$S nix-store --gc --print-dead | wc -l", "0")
            .unlike("nothing here is garbage; to nix-daemon it is what no root holds"),
    ]
}

fn garbage() -> Vec<Case> {
    vec![
        works("gc-dry", "nix store gc --dry-run --store $S", "").same_status(),
        fails("gc", "nix store gc --store $S --max 1", KEEPS).unlike(COLLECTS),
        fails("gc-full", "nix store gc --store $S", KEEPS).unlike(COLLECTS),
        fails("collect-garbage", "NIX_REMOTE=$S nix-collect-garbage", KEEPS).unlike(COLLECTS),
        fails("collect-garbage-d", "NIX_REMOTE=$S nix-collect-garbage -d", KEEPS).unlike(COLLECTS),
        fails("nix-store-gc", "NIX_REMOTE=$S nix-store --gc", KEEPS).unlike(COLLECTS),
        works("still-there", "nix path-info --store $S -r $C | wc -l", "10").unlike(COLLECTS),
        works("copy-to-after", "nix copy --from $LS --to $S $C $DEV", "copying"),
    ]
}

fn deletion() -> Vec<Case> {
    vec![
        fails("delete-alive", "nix store delete --store $S $A", "cannot delete path '$A' since "),
        fails("delete-ignore", "nix store delete --ignore-liveness --store $S $A", "not allowed to ignore liveness"),
        works("delete-missing", "nix store delete --store $S $NOPE", "0 store paths deleted").same_status(),
        works("delete", "nix store delete --store $S $C", "1 store paths deleted").same_status(),
        fails("check-validity-deleted", "NIX_REMOTE=$S nix-store --check-validity $C", "path '$C' is not valid"),
        works("check-validity-kept", "NIX_REMOTE=$S nix-store --check-validity $DEV $T $A", ""),
        works("delete-again", "nix store delete --store $S $C", "0 store paths deleted").same_status(),
        works("delete-several", "nix store delete --store $S $SELF $DEV", "2 store paths deleted").same_status(),
        works(
            "nix-store-delete",
            "NIX_REMOTE=$S nix-store --delete $(NIX_REMOTE=$S nix-store --add $W/two.txt)",
            "1 store paths deleted",
        )
        .same_status(),
        works("copy-to-deleted", "nix copy --from $LS --to $S $C && NIX_REMOTE=$S nix-store --check-validity $C", ""),
    ]
}
