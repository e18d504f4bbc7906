# What NixOS makes of the module in several configurations, for tests/flake.rs to look at.
#
# nix-instantiate --eval --strict --json tests/flake/cases.nix -A minimal
let
  lib = import ./nixpkgs/lib.nix;
  nixosSystem = import ./nixpkgs/nixos.nix {
    inherit lib;
    pkgsFor = system: import ./nixpkgs/pkgs.nix { inherit lib system; };
  };

  text = ''
    version = 1
    [signers.nixos]
    keys = ["cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="]
    [default]
    require = "nixos"
  '';

  case =
    settings:
    let
      system = nixosSystem {
        modules = [
          ../../nix/module.nix
          { services.nix-quorum = settings; }
        ];
      };
      inherit (system) config;
      source = file: if file ? text then file.text else builtins.readFile file;
    in
    {
      unit = config.systemd.units."nix-quorum.service".text or null;
      package = "${config.services.nix-quorum.package}";
      etc = lib.mapAttrs (_: file: source file.source) config.environment.etc;
      programs = map (package: package.name) config.environment.systemPackages;
      tmpfiles = config.systemd.tmpfiles.settings;
      inherit (config) users;
      complaints = map (said: said.message) (lib.filter (said: !said.assertion) config.assertions);
    };
in
{
  disabled = case { };
  minimal = case {
    enable = true;
    policy = text;
  };
  file = case {
    enable = true;
    policy = ./policy.toml;
  };
  elsewhere = case {
    enable = true;
    policy = "/etc/quorum/policy 100%.toml";
    store = "file:///srv/quorum";
    socket = "/run/elsewhere/store.sock";
    stagingSocket = "/run/elsewhere/staging.sock";
    countersignKeyFile = "/etc/quorum/gate.key";
    settings = {
      log = "debug";
      color = "never";
    };
  };
  bucket = case {
    enable = true;
    policy = text;
    store = "s3://cache?region=eu-west-1";
    environmentFile = "/etc/quorum/aws.env";
    settings.single-writer = true;
  };
  wrong = case {
    enable = true;
    policy = text;
    countersignKeyFile = "/nix/store/gate.key";
    settings.store = "file:///somewhere";
  };
  misspelt = case {
    enable = true;
    polcy = text;
  };
  relative = case {
    enable = true;
    policy = text;
    store = "quorum";
  };
  none = case { enable = true; };
}
