# shellcheck shell=sh disable=SC2154,SC2086 # the derivation's variables; lists
# Builds one node of closure.nix: $shape says what kind of output, $inputs what
# it refers to. Nothing here may depend on the machine, or on time.
umask 022
refs() { printf '%s\n' "$name" $inputs; }

case $shape in
file)   refs >"$out" ;;
program)
    mkdir -p "$out/bin"
    { echo '#!/bin/sh'; refs | sed 's/^/# /'; echo "echo hello from $name"; } >"$out/bin/hello"
    chmod +x "$out/bin/hello" ;;
tree)
    mkdir -p "$out/share/a/b/c" "$out/share/empty" "$out/lib"
    refs >"$out/share/a/b/c/refs"
    : >"$out/share/an empty file"
    printf '\0\1\2\377 %s' "$seed" >"$out/lib/binary.so"
    for f in 1 2 3 4 5 6 7 8 9 10; do echo "$name $f" >"$out/share/a/$f.txt"; done ;;
links)  # symlinks to inputs are references too, as is a symlink alone
    mkdir "$out"
    ln -s dangling "$out/nowhere"
    for i in $inputs; do ln -s "$i" "$out/${i##*/}"; done ;;
outputs)
    mkdir -p "$out/lib" "$dev/include"
    refs >"$out/lib/refs"
    echo "#define OUT \"$out\"" >"$dev/include/header.h"
    echo "documentation of $name" >"$doc" ;;
self)
    mkdir -p "$out/bin" "$out/libexec"
    refs >"$out/libexec/refs"
    printf '#!/bin/sh\ncat %s/libexec/refs\n' "$out" >"$out/bin/self"
    chmod +x "$out/bin/self" ;;
large)  # more than a pipe or a socket buffer takes at once
    mkdir "$out"
    refs >"$out/refs"
    seq -f "$name %.0f" 1 $((10000 + seed * 100)) >"$out/data" ;;
esac
