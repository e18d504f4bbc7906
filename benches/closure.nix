# A closure made from the machine's own files: derivation I copies the files that LISTS/I names, and refers to up to
# three earlier ones.
{ lists, n }:
let
  count = builtins.fromJSON n;
  at = i: builtins.elemAt all i;
  earlier = i: builtins.filter (j: j >= 0 && j < i) [ (i - 1) (i - 7) (i / 2) ];
  make = i: derivation {
    name = "bench-${toString i}";
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    references = map at (earlier i);
    args = [
      "-c"
      ''
        mkdir $out
        tar -C / -cf - --no-recursion -T ${lists}/${toString i} | tar -C $out -xf - --no-same-owner
        chmod -R u+rwX $out
        for reference in $references; do echo $reference; done >$out/references
      ''
    ];
  };
  all = builtins.genList make count;
in
derivation {
  name = "bench-all";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "echo $all >$out" ];
  inherit all;
}
