# NixOS: a gate that serves a directory or a bucket to every Nix client of this machine.
#
#   services.nix-quorum = {
#     enable = true;
#     policy = ./policy.toml;
#   };
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:

let
  inherit (lib)
    hasPrefix
    mkEnableOption
    mkIf
    mkOption
    types
    ;

  cfg = config.services.nix-quorum;
  toml = pkgs.formats.toml { };

  # Where systemd makes directories for the service, and everybody may look.
  stateDirectory = "/var/lib/nix-quorum";
  runtimeDirectory = "/run/nix-quorum";
  inside = directory: path: path == directory || hasPrefix "${directory}/" path;

  isBucket = hasPrefix "s3://" cfg.store;
  storeDirectory = lib.removePrefix "file://" cfg.store;

  # A policy that lies on the machine already is read where it lies. Any other becomes a file of the system, always under
  # the same name, so that a new one is read again without a restart.
  isAbsolute = builtins.isString cfg.policy && hasPrefix "/" cfg.policy;
  ownPolicy = isAbsolute && !hasPrefix builtins.storeDir cfg.policy;
  policyFile = if ownPolicy then cfg.policy else "/etc/nix-quorum/policy.toml";
  policySource =
    let
      isText = builtins.isString cfg.policy && !isAbsolute;
      source = if isText then pkgs.writeText "policy.toml" cfg.policy else cfg.policy;
      inherit (pkgs.stdenv) buildPlatform hostPlatform;
    in
    if buildPlatform.canExecute hostPlatform then
      # A mistake in it stops the build of the system, and not the store.
      pkgs.runCommand "nix-quorum-policy.toml" { nativeBuildInputs = [ cfg.package ]; } ''
        nix-quorum policy check ${source}
        cp ${source} $out
      ''
    else
      source;

  configSource = toml.generate "nix-quorum.toml" (
    cfg.settings
    // {
      inherit (cfg) socket;
    }
    // lib.optionalAttrs (cfg.stagingSocket != null) { staging-socket = cfg.stagingSocket; }
  );
in
{
  options.services.nix-quorum = {
    enable = mkEnableOption "nix-quorum, a Nix store that holds only what a quorum vouched for";

    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = lib.literalExpression "pkgs.callPackage ./package.nix { }";
      description = "The package that has the program.";
    };

    store = mkOption {
      type = types.strMatching "(file://)?/[^?]*|s3://.+";
      default = "file://${stateDirectory}";
      example = "file:///srv/nix-quorum";
      description = ''
        Where paths are kept: a directory, as `file:///DIRECTORY`, or a bucket, as `s3://BUCKET?region=REGION`. A directory
        is made if there is none, and is a standard binary cache, which everybody on the machine can read.
      '';
    };

    environmentFile = mkOption {
      type = types.nullOr (types.strMatching "/.*");
      default = null;
      example = "/etc/quorum/aws.env";
      description = ''
        A file that sets variables, such as `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`. Only root need be able to read
        it. A machine that has a role of its own needs none.
      '';
    };

    policy = mkOption {
      type = types.either types.path types.lines;
      example = lib.literalExpression "./policy.toml";
      description = ''
        Who may sign, and how many must: a file, or the text itself. A change is put in force without a restart.

        A text, and a file that is part of the configuration, is checked when the system is built. A path in quotes, such
        as `"/etc/quorum/policy.toml"`, names a file that somebody else keeps on the machine; policies that administrators
        sign are of this kind, with the signatures beside them. `systemctl reload nix-quorum` reads it again.
      '';
    };

    socket = mkOption {
      type = types.strMatching "/.*";
      default = "${runtimeDirectory}/store.sock";
      description = ''
        Where clients connect, with `--store unix://SOCKET`. Everybody on the machine may: the policy protects the store,
        and not the socket. A directory other than `${runtimeDirectory}` has to be there already, and user `nix-quorum` has
        to be allowed to write in it.
      '';
    };

    stagingSocket = mkOption {
      type = types.nullOr (types.strMatching "/.*");
      default = null;
      example = "${runtimeDirectory}/staging.sock";
      description = ''
        Where builders bring what is short of its quorum, to be held until other builders have signed the same. Everybody on
        the machine may connect; without a signature that counts nothing is held. Without this, nothing is held at all.
      '';
    };

    countersignKeyFile = mkOption {
      type = types.nullOr (types.strMatching "/.*");
      default = null;
      example = "/etc/quorum/gate.key";
      description = ''
        A file with a secret key of the gate's own, with which it also signs what it admits, for readers that take the
        directory for a plain binary cache. Only root need be able to read it. It must not be a signer's key.
      '';
    };

    settings = mkOption {
      inherit (toml) type;
      default = { };
      example = {
        log = "debug";
        policy-signer = [ "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3" ];
      };
      description = ''
        Other options of the program, by their long names: see `nix-quorum serve --help`. They become
        {file}`/etc/nix-quorum/config.toml`, which holds for everybody who runs the program on this machine.
      '';
    };
  };

  config = mkIf cfg.enable {
    assertions = [
      {
        assertion = !lib.any (name: cfg.settings ? ${name}) [
          "countersign"
          "policy"
          "socket"
          "staging-socket"
          "store"
        ];
        message = ''
          services.nix-quorum.settings: countersign, policy, socket, staging-socket and store have options of their own.
        '';
      }
      {
        assertion =
          !lib.any (file: hasPrefix builtins.storeDir (toString file)) [
            cfg.countersignKeyFile
            cfg.environmentFile
          ];
        message = ''
          services.nix-quorum.countersignKeyFile and environmentFile: everybody can read what is in ${builtins.storeDir}.
        '';
      }
    ];

    # For "ssh-ng://…?remote-program=nix-quorum", and for whoever asks what a policy demands.
    environment.systemPackages = [ cfg.package ];

    environment.etc = {
      "nix-quorum/config.toml".source = configSource;
    }
    // lib.optionalAttrs (!ownPolicy) { "nix-quorum/policy.toml".source = policySource; };

    # Not DynamicUser: what it keeps would lie behind a directory that nobody else may enter, and the store is there to be
    # read, by file:// and by web servers too.
    users.users.nix-quorum = {
      isSystemUser = true;
      group = "nix-quorum";
      description = "nix-quorum";
    };
    users.groups.nix-quorum = { };

    systemd.tmpfiles.settings = mkIf (!isBucket && !inside stateDirectory storeDirectory) {
      nix-quorum.${storeDirectory}.d = {
        user = "nix-quorum";
        group = "nix-quorum";
        mode = "0755";
      };
    };

    systemd.services.nix-quorum = {
      description = "Nix store that holds only what a quorum of signers vouched for";
      documentation = [ cfg.package.meta.homepage ];
      wantedBy = [ "multi-user.target" ];
      wants = lib.optional isBucket "network-online.target";
      after = lib.optional isBucket "network-online.target";
      unitConfig.RequiresMountsFor = lib.optional (!isBucket) storeDirectory;
      restartTriggers = [ configSource ];
      reloadTriggers = lib.optional (!ownPolicy) policySource;

      serviceConfig = {
        Type = "exec";
        ExecStart =
          utils.escapeSystemdExecArgs [
            (lib.getExe cfg.package)
            "serve"
            "--store"
            cfg.store
            "--policy"
            policyFile
            "--socket"
            cfg.socket
          ]
          + lib.optionalString (cfg.stagingSocket != null) (
            " " + utils.escapeSystemdExecArgs [ "--staging-socket" cfg.stagingSocket ]
          )
          # The directory in which systemd hands over the key.
          + lib.optionalString (cfg.countersignKeyFile != null) " --countersign %d/countersign";
        ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
        LoadCredential = lib.optional (
          cfg.countersignKeyFile != null
        ) "countersign:${cfg.countersignKeyFile}";
        Restart = "on-failure";
        RestartSec = 2;
        # Sessions have ten seconds to finish what they do.
        TimeoutStopSec = 30;
        # A connection, and the files of three paths, for each of 256 clients.
        LimitNOFILE = 8192;

        User = "nix-quorum";
        Group = "nix-quorum";
        UMask = "0022";
        StateDirectory = "nix-quorum";
        StateDirectoryMode = "0755";
        # The index of a bucket.
        CacheDirectory = "nix-quorum";
        EnvironmentFile = lib.optional (cfg.environmentFile != null) cfg.environmentFile;
        # As with nix-daemon's, everybody can reach the socket.
        RuntimeDirectory = "nix-quorum";
        RuntimeDirectoryMode = "0755";

        ProtectSystem = "strict";
        ReadWritePaths =
          lib.optional (!isBucket && !inside stateDirectory storeDirectory) storeDirectory
          ++ map builtins.dirOf (
            lib.filter (socket: !inside runtimeDirectory socket) (
              [ cfg.socket ] ++ lib.optional (cfg.stagingSocket != null) cfg.stagingSocket
            )
          );
        # For a directory it needs no network: files, and a socket in the file system.
        PrivateNetwork = !isBucket;
        RestrictAddressFamilies = [
          "AF_UNIX"
        ]
        ++ lib.optional isBucket "AF_INET"
        ++ lib.optional isBucket "AF_INET6";
        # Not PrivateUsers: every client would be nobody, and who uploads, and how often, is told by the user id.
        CapabilityBoundingSet = "";
        NoNewPrivileges = true;
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        PrivateDevices = true;
        PrivateTmp = true;
        # Not ProcSubset: it hides the kernel's boot id, without which no gate can tell that another has ended, whose lease and
        # announcements count for as long as they last then.
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        RemoveIPC = true;
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = [
          "@system-service"
          "~@privileged @resources"
        ];
      };
    };
  };
}
