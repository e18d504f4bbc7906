# NixOS, as far as it is used here: the options that a service's module sets, and the unit that becomes of it.
{ lib, pkgsFor }:

{ modules }:

let
  inherit (builtins)
    attrNames
    concatStringsSep
    isBool
    isList
    isString
    replaceStrings
    toJSON
    ;
  inherit (lib) concatMapStringsSep mkOption types;

  declare =
    type: default:
    mkOption {
      inherit type default;
      description = "As in NixOS.";
    };

  # systemd.exec(5), systemd.service(5), systemd.kill(5), systemd.resource-control(5), as far as anybody needs them here.
  directives = [
    "AmbientCapabilities"
    "CacheDirectory"
    "CapabilityBoundingSet"
    "DynamicUser"
    "EnvironmentFile"
    "ExecReload"
    "ExecStart"
    "Group"
    "LimitNOFILE"
    "LoadCredential"
    "LockPersonality"
    "MemoryDenyWriteExecute"
    "NoNewPrivileges"
    "PrivateDevices"
    "PrivateNetwork"
    "PrivateTmp"
    "PrivateUsers"
    "ProtectClock"
    "ProtectControlGroups"
    "ProtectHome"
    "ProtectHostname"
    "ProtectKernelLogs"
    "ProtectKernelModules"
    "ProtectKernelTunables"
    "ProtectProc"
    "ProtectSystem"
    "ReadOnlyPaths"
    "ReadWritePaths"
    "RemoveIPC"
    "Restart"
    "RestartSec"
    "RestrictAddressFamilies"
    "RestrictNamespaces"
    "RestrictRealtime"
    "RestrictSUIDSGID"
    "RuntimeDirectory"
    "RuntimeDirectoryMode"
    "StateDirectory"
    "StateDirectoryMode"
    "SystemCallArchitectures"
    "SystemCallFilter"
    "TimeoutStopSec"
    "Type"
    "UMask"
    "User"
  ];

  base.options = {
    assertions = declare (types.listOf types.anything) [ ];
    environment.etc = declare (types.setsOf [ "source" ]) { };
    environment.systemPackages = declare (types.listOf types.package) [ ];
    nixpkgs.hostPlatform = declare types.str "x86_64-linux";
    systemd.services = declare (types.setsOf [
      "after"
      "description"
      "documentation"
      "reloadTriggers"
      "restartTriggers"
      "serviceConfig"
      "unitConfig"
      "wantedBy"
      "wants"
    ]) { };
    systemd.tmpfiles.settings = declare types.anything { };
    users.groups = declare (types.setsOf [ "gid" ]) { };
    users.users = declare (types.setsOf [ "description" "group" "isSystemUser" ]) { };
  };

  # nixos/lib/utils.nix
  utils.escapeSystemdExecArgs = concatMapStringsSep " " (
    argument:
    replaceStrings [ "%" "$" ] [ "%%" "$$" ] (toJSON (lib.expect "a string" isString argument))
  );

  pkgs = pkgsFor config.nixpkgs.hostPlatform;
  config = import ./modules.nix { inherit lib; } {
    modules = [ base ] ++ modules;
    arguments = { inherit lib pkgs utils; };
  };

  # nixos/lib/systemd-lib.nix
  word = value: if isBool value then toJSON value else toString value;
  section =
    settings:
    concatMapStringsSep "" (
      name:
      let
        values = if isList settings.${name} then settings.${name} else [ settings.${name} ];
      in
      concatMapStringsSep "" (value: "${name}=${word value}\n") values
    ) (attrNames settings);
  unit =
    service:
    let
      text = ''
        [Unit]
        Description=${service.description}
        Documentation=${concatStringsSep " " service.documentation}
        X-Reload-Triggers=${concatMapStringsSep " " toString service.reloadTriggers}
        X-Restart-Triggers=${concatMapStringsSep " " toString service.restartTriggers}
        Wants=${concatStringsSep " " service.wants}
        After=${concatStringsSep " " service.after}
        ${section service.unitConfig}

        [Service]
        ${section (lib.only "serviceConfig" directives service.serviceConfig)}
        [Install]
        WantedBy=${concatStringsSep " " service.wantedBy}
      '';
    in
    {
      inherit text;
      unit = pkgs.writeText "unit" text;
    };
in
{
  inherit pkgs;
  config = config // {
    systemd = config.systemd // {
      units = builtins.listToAttrs (
        map (name: {
          name = "${name}.service";
          value = unit config.systemd.services.${name};
        }) (attrNames config.systemd.services)
      );
    };
  };
}
