{
  description = "A Nix store that holds only what a quorum of independent signers vouched for";

  # There is no flake.lock in this repository yet: one can only be made with access to the network. Whoever uses this flake
  # pins nixpkgs in their own lock file, with
  #   inputs.nix-quorum.inputs.nixpkgs.follows = "nixpkgs";
  # and whoever works on it makes one with "nix flake lock" and commits it. Any nixpkgs with Rust 1.94.1 or later will do.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;

      # Linux alone has what the program asks of a kernel: who is at the other end of a socket (SO_PEERCRED), and one sync
      # for a whole batch of files (syncfs).
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];

      perSystem = make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
    in
    {
      packages = perSystem (pkgs: {
        default = pkgs.callPackage ./nix/package.nix { };
      });

      devShells = perSystem (pkgs: {
        default = pkgs.callPackage ./nix/shell.nix { };
      });

      nixosModules.default.imports = [ ./nix/module.nix ];

      checks = perSystem (
        pkgs:
        import ./nix/checks.nix {
          inherit pkgs;
          inherit (lib) nixosSystem;
          package = self.packages.${pkgs.stdenv.hostPlatform.system}.default;
          module = self.nixosModules.default;
        }
      );

      formatter = perSystem (pkgs: pkgs.nixfmt-tree);
    };
}
