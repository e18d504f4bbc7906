# What "nix flake check" builds, besides evaluating everything.
{
  pkgs,
  nixosSystem,
  package,
  module,
}:

{
  # Building it runs the tests of every crate.
  inherit package;

  # The source is as rustfmt leaves it.
  format = pkgs.runCommand "nix-quorum-format" {
    nativeBuildInputs = [
      pkgs.cargo
      pkgs.rustfmt
    ];
  } ''
    cp -r --no-preserve=mode ${package.src} source
    cp ${../rustfmt.toml} source/rustfmt.toml
    cd source
    export CARGO_HOME=$TMPDIR
    cargo fmt --all --check
    touch $out
  '';

  # NixOS makes a unit of the module, and the policy in it is read by the program.
  module =
    let
      system = nixosSystem {
        modules = [
          module
          {
            nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system;
            services.nix-quorum = {
              enable = true;
              policy = ''
                version = 1

                [signers.nixos]
                keys = ["cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="]

                [default]
                require = "nixos"
              '';
            };
          }
        ];
      };
    in
    pkgs.linkFarm "nix-quorum-module" {
      unit = system.config.systemd.units."nix-quorum.service".unit;
      policy = system.config.environment.etc."nix-quorum/policy.toml".source;
      config = system.config.environment.etc."nix-quorum/config.toml".source;
    };
}
