# The program, built and tested with nixpkgs' Rust.
{ lib, rustPlatform }:

let
  manifest = lib.importTOML ../Cargo.toml;
in
rustPlatform.buildRustPackage {
  pname = manifest.package.name;
  inherit (manifest.workspace.package) version;

  # What the program is made of and what its crates' tests read, so that a change of its documentation builds nothing. The tests
  # at the root need real Nix clients, which no build has.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../Cargo.lock
      ../Cargo.toml
      ../benches
      ../docs/findings.md
      ../policy
      ../src
      ../store-backend
      ../verifier
    ];
  };

  # Every dependency comes from the registry that the lock file names, by the hash that stands there.
  cargoLock.lockFile = ../Cargo.lock;

  cargoTestFlags = [ "--workspace" ];

  meta = {
    inherit (manifest.package) description;
    homepage = manifest.workspace.package.repository;
    changelog = "${manifest.workspace.package.repository}/blob/main/CHANGELOG.md";
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "nix-quorum";
    platforms = lib.platforms.linux;
  };
}
