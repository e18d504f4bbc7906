# A stand-in for nixpkgs, for tests that have no network: as much of it as this repository's flake uses, which looks closely
# at what it is given. See ../README.md.
{
  description = "As much of nixpkgs as a test needs";

  outputs =
    { self }:
    let
      lib = import ./lib.nix;
      pkgsFor = system: import ./pkgs.nix { inherit lib system; };
    in
    {
      lib = lib // {
        nixosSystem = import ./nixos.nix { inherit lib pkgsFor; };
      };
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] pkgsFor;
    };
}
