# nixpkgs' lib, as far as it is used here. Each function is called and answers as the real one.
let
  inherit (builtins)
    all
    attrNames
    concatStringsSep
    filter
    fromTOML
    isAttrs
    isList
    isPath
    isString
    listToAttrs
    match
    pathExists
    readFile
    stringLength
    substring
    toString
    ;

  # What a set given to a function must have, so that a misspelt name is no silent nothing.
  only =
    what: names: set:
    let
      unknown = filter (name: !(builtins.elem name names)) (attrNames set);
    in
    if unknown == [ ] then set else throw "${what} takes no ${concatStringsSep ", " unknown}";

  expect = what: right: value: if right value then value else throw "expected ${what}";

  isText = value: isString value && value != "";

  lib = {
    inherit only expect isText;
    inherit (builtins) any elem filter head length mapAttrs concatMap;

    genAttrs =
      names: value:
      listToAttrs (
        map (name: {
          inherit name;
          value = value name;
        }) names
      );
    importTOML = path: fromTOML (readFile path);
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    removePrefix =
      prefix: text:
      let
        rest = substring (stringLength prefix) (stringLength text) text;
      in
      if lib.hasPrefix prefix text then rest else text;
    optional = condition: value: if condition then [ value ] else [ ];
    optionalString = condition: text: if condition then text else "";
    optionalAttrs = condition: set: if condition then set else { };
    concatMapStringsSep =
      separator: function: list:
      concatStringsSep separator (map function list);
    getExe = package: "${package}/bin/${package.meta.mainProgram}";

    licenses = {
      mit.spdxId = "MIT";
      asl20.spdxId = "Apache-2.0";
    };
    platforms.linux = [ "x86_64-linux" "aarch64-linux" "riscv64-linux" ];

    # File sets, here lists of paths below a root.
    fileset = {
      unions =
        files:
        let
          there = file: pathExists file || throw "lib.fileset.unions: there is no ${toString file}";
        in
        assert isList files && all isPath files && all there files;
        {
          _type = "fileset";
          inherit files;
        };
      toSource =
        arguments:
        let
          inherit (only "lib.fileset.toSource" [ "root" "fileset" ] arguments) root fileset;
          base = toString root;
          below = file: lib.hasPrefix "${base}/" (toString file);
          wanted = map toString fileset.files;
          # A file of the set, something in a directory of the set, or a directory on the way to one.
          takes =
            path:
            lib.any (
              file: path == file || lib.hasPrefix "${file}/" path || lib.hasPrefix "${path}/" file
            ) wanted;
        in
        assert fileset._type == "fileset";
        assert all below fileset.files;
        {
          # For a look at what is in it, which Nix cannot read where it may not write.
          has = file: pathExists (root + "/${file}") && takes "${base}/${file}";
          manifest = lib.importTOML (root + "/Cargo.toml");
          outPath = builtins.path {
            path = root;
            name = "source";
            filter = path: _: takes path;
          };
        };
    };

    # What modules are written in; modules.nix reads it.
    mkIf = condition: content: {
      _type = "if";
      inherit condition content;
    };
    mkOption =
      arguments:
      only "lib.mkOption" [ "type" "default" "defaultText" "example" "description" ] arguments
      // {
        _type = "option";
        type = expect "an option with a type" (type: type._type == "type") arguments.type;
        description = expect "an option with a description" isText arguments.description;
      };
    mkEnableOption =
      name:
      lib.mkOption {
        type = lib.types.bool;
        default = false;
        description = "Whether to enable ${expect "a name" isText name}.";
      };
    literalExpression = text: {
      _type = "literalExpression";
      text = expect "a text" isText text;
    };

    types =
      let
        # Whose definitions are merged by a function, or of which there may be one.
        type = name: check: merge: {
          _type = "type";
          inherit name check merge;
        };
        one =
          name: definitions:
          if lib.length definitions == 1 then
            lib.head definitions
          else
            throw "${name} is defined ${toString (lib.length definitions)} times";
        single = name: check: type name check (one name);
      in
      {
        bool = single "boolean" builtins.isBool;
        str = single "string" isString;
        path = single "absolute path" (
          value:
          (isPath value || isString value || value ? outPath) && lib.hasPrefix "/" (toString value)
        );
        lines = type "text" isString (concatStringsSep "\n");
        package = single "package" (value: value.type or "" == "derivation");
        anything = single "anything" (_: true);
        strMatching =
          pattern:
          single "string matching ${pattern}" (value: isString value && match pattern value != null);
        nullOr =
          inner:
          type "null or ${inner.name}" (value: value == null || inner.check value) (one inner.name);
        either =
          left: right:
          type "${left.name} or ${right.name}" (value: left.check value || right.check value) (
            definitions: (if all left.check definitions then left else right).merge definitions
          );
        listOf =
          inner:
          type "list of ${inner.name}" (value: isList value && all inner.check value) builtins.concatLists;
        # Sets whose members are checked each; the names that a member may have are given.
        setsOf =
          names:
          let
            right = member: isAttrs (only "this option" names member);
          in
          type "sets" (value: isAttrs value && all right (builtins.attrValues value)) (
            builtins.foldl' (left: right: left // right) { }
          );
      };
  };
in
lib
