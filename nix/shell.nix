# What it takes to work on the program: nix develop
{
  mkShell,
  cargo,
  cargo-deny,
  clippy,
  minisign,
  nix,
  python3,
  rustc,
  rustfmt,
  zstd,
}:

mkShell {
  packages = [
    cargo
    cargo-deny
    clippy
    minisign
    nix
    python3
    rustc
    rustfmt
    zstd
  ];
}
