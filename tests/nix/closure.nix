# N derivations, every one with 1 to 3 earlier ones as references, chosen by a
# fixed pseudo-random sequence; the last refers to all that no other does.
{ n, system ? builtins.currentSystem }:
let
  inherit (builtins) all concatLists concatMap elem elemAt filter genList head map toString;
  count = builtins.fromJSON n;
  last = count - 1;

  mod = a: m: a - a / m * m;
  # the k-th number for derivation i, below m
  random = i: k: m: mod (mod (1103515245 * (mod (1103515245 * (i * 8 + k) + 12345) 2147483648) + 12345) 2147483648 / 65536) m;
  unique = builtins.foldl' (l: x: if elem x l then l else l ++ [ x ]) [ ];

  chosen = i: if i == 0 then [ ] else unique (genList (k: random i (k + 1) i) (1 + random i 0 3));
  chosenByOthers = concatLists (genList chosen last);
  references = i:
    if i < last then chosen i
    else filter (j: !elem j chosenByOthers) (genList (j: j) last);

  shapes = [ "file" "tree" "program" "links" "outputs" "self" "large" ];
  nodes = genList node count;
  node = i:
    let shape = elemAt shapes (mod i (builtins.length shapes)); in
    derivation {
      name = "node-${toString i}-${shape}";
      inherit system shape;
      outputs = if shape == "outputs" then [ "out" "dev" "doc" ] else [ "out" ];
      inputs = concatMap (j: let d = elemAt nodes j; in map (o: d.${o}) d.outputs) (references i);
      builder = "/bin/sh";
      args = [ "-euc" (builtins.readFile ./closure.sh) ];
      PATH = "/usr/bin:/bin";
      seed = toString i;
    };
in
elemAt nodes last
