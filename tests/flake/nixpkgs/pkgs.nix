# Packages: derivations that can be evaluated and not built, and the functions that make them, which take what the real ones
# take and look at it.
{ lib, system }:

let
  inherit (builtins)
    all
    attrValues
    functionArgs
    intersectAttrs
    isAttrs
    isFunction
    isList
    isString
    ;
  inherit (lib) expect only isText;

  derive =
    name: attributes:
    derivation (
      attributes
      // {
        inherit name system;
        builder = "/bin/sh";
      }
    );

  # With what a package has besides: meta, and whatever a test wants to look at.
  package =
    name: attributes: more:
    derive name attributes // { inherit name; } // more;

  isPackage = value: value.type or "" == "derivation";
  packagesOf = expect "a list of packages" (value: isList value && all isPackage value);

  callPackage =
    file: overrides:
    let
      function = if isFunction file then file else import file;
    in
    function (intersectAttrs (functionArgs function) (pkgs // { inherit lib pkgs; }) // overrides);

  metaOf =
    given:
    let
      known = [ "description" "homepage" "changelog" "license" "mainProgram" "platforms" ];
      licenses = attrValues lib.licenses;
    in
    assert isText given.description;
    assert builtins.match ".*[.]" given.description == null;
    assert lib.hasPrefix "https://" given.homepage;
    assert all (license: lib.elem license licenses) given.license;
    assert isText given.mainProgram;
    assert given.platforms == lib.platforms.linux;
    only "meta" known given;

  # importCargoLock: everything from the registry and by its hash; other sources would each need one beside the lock file.
  cargoDeps =
    arguments:
    let
      inherit (only "cargoLock" [ "lockFile" ] arguments) lockFile;
      locked = (lib.importTOML lockFile).package;
      registry = "registry+https://github.com/rust-lang/crates.io-index";
      fetched = lib.filter (crate: crate ? source) locked;
    in
    assert all (crate: crate.source == registry && isText crate.checksum) fetched;
    assert lib.any (crate: !(crate ? source)) locked;
    derive "cargo-vendor-dir" { lock = builtins.readFile lockFile; };

  # A workspace whose members are all there.
  workspace =
    src:
    assert all src.has [ "Cargo.lock" "Cargo.toml" "src/main.rs" ];
    assert all (member: src.has "${member}/Cargo.toml") src.manifest.workspace.members;
    # Cargo reads no manifest that names a file which is not there.
    assert all (bench: src.has "benches/${bench.name}.rs") src.manifest.bench;
    assert src.has "docs/findings.md";
    assert !lib.any src.has [ "flake.nix" "nix/package.nix" "tests" ];
    src;

  pkgs = {
    inherit callPackage lib;

    stdenv = rec {
      hostPlatform = {
        inherit system;
        canExecute = other: other.system == system;
      };
      buildPlatform = hostPlatform;
    };

    # With the arguments named, Nix itself refuses any other.
    rustPlatform.buildRustPackage =
      {
        pname,
        version,
        src,
        cargoLock,
        cargoBuildFlags ? [ ],
        cargoTestFlags ? [ ],
        nativeBuildInputs ? [ ],
        buildInputs ? [ ],
        doCheck ? true,
        meta,
      }:
      assert isText pname;
      assert builtins.match "[0-9]+[.][0-9]+[.][0-9]+.*" version != null;
      package "${pname}-${version}" {
        inherit cargoBuildFlags cargoTestFlags doCheck;
        nativeBuildInputs = packagesOf nativeBuildInputs;
        buildInputs = packagesOf buildInputs;
        src = workspace src;
        cargoDeps = cargoDeps cargoLock;
      } {
        inherit pname version src;
        meta = metaOf meta;
      };

    mkShell =
      {
        packages ? [ ],
        shellHook ? "",
      }:
      derive "nix-shell" {
        inherit shellHook;
        packages = packagesOf packages;
      };

    runCommand =
      name: environment: script:
      assert isText name && isAttrs environment && isText script;
      package name (environment // { buildCommand = script; }) { text = script; };

    writeText =
      name: text:
      assert isText name && isString text;
      package name { inherit text; } { inherit text; };

    linkFarm =
      name: entries:
      let
        targets = map (target: "${target}") (attrValues entries);
      in
      assert isText name && all isString targets;
      package name { entries = targets; } { inherit entries; };

    # TOML as far as flat settings go: in these, it is written as JSON is.
    formats.toml =
      { }:
      {
        type = lib.types.anything;
        generate =
          name: settings:
          pkgs.writeText name (
            lib.concatMapStringsSep "" (
              key: "${key} = ${builtins.toJSON settings.${key}}\n"
            ) (builtins.attrNames settings)
          );
      };
  }
  // lib.genAttrs [
    "cargo"
    "cargo-deny"
    "clippy"
    "coreutils"
    "minisign"
    "nix"
    "nixfmt-tree"
    "python3"
    "rustc"
    "rustfmt"
    "zstd"
  ] (name: package name { } { meta.mainProgram = name; });
in
pkgs
