# NixOS' module system, as far as it is used here: modules that import, declare and define, with conditions. A definition of
# what nobody declared is an error, and so is a value of the wrong type.
{ lib }:

{
  modules,
  arguments,
}:

let
  inherit (builtins)
    attrNames
    concatLists
    foldl'
    functionArgs
    intersectAttrs
    isAttrs
    isFunction
    isPath
    isString
    ;

  # A module as { options, config }, after all that it imports.
  read =
    module:
    let
      value = if isPath module || isString module then import module else module;
      called =
        if isFunction value then
          value (intersectAttrs (functionArgs value) (arguments // { inherit config; }))
        else
          value;
      structured = called ? config || called ? options;
      full =
        if structured then
          lib.only "a module" [ "imports" "options" "config" ] called
        else
          { config = removeAttrs called [ "imports" ]; };
    in
    lib.concatMap read (called.imports or [ ])
    ++ [
      {
        options = full.options or { };
        config = full.config or { };
      }
    ];

  all = lib.concatMap read modules;

  join =
    left: right:
    left
    // lib.mapAttrs (
      name: value:
      if !(left ? ${name}) then
        value
      else if isOption value || isOption left.${name} then
        throw "option ${name} is declared twice"
      else
        join left.${name} value
    ) right;
  isOption = value: value._type or "" == "option";
  declared = foldl' join { } (map (module: module.options) all);

  # What a module says of a path. A condition goes down to where it matters, and what stands behind one that does not hold
  # is not looked at.
  said =
    path: value:
    if path == [ ] then
      if !isConditional value then
        [ value ]
      else if value.condition then
        said [ ] value.content
      else
        [ ]
    else if isConditional value then
      let
        inherit (value) condition content;
        next = lib.head path;
      in
      if isConditional content then
        said path (content // { condition = condition && content.condition; })
      else if content ? ${next} then
        said (builtins.tail path) (lib.mkIf condition content.${next})
      else
        [ ]
    else if value ? ${lib.head path} then
      said (builtins.tail path) value.${lib.head path}
    else
      [ ];
  isConditional = value: isAttrs value && value._type or "" == "if";

  value =
    path: options:
    if isOption options then
      let
        definitions = concatLists (map (module: said path module.config) all);
        name = builtins.concatStringsSep "." path;
        wrong = throw "${name} is not of type ${options.type.name}";
        check = definition: if options.type.check definition then definition else wrong;
      in
      if definitions != [ ] then
        options.type.merge (map check definitions)
      else
        options.default or (throw "${name} is used but not defined")
    else
      lib.mapAttrs (name: value (path ++ [ name ])) options;

  # Definitions of what nobody declared.
  strays =
    path: options: definition:
    if isOption options then
      [ ]
    else if isConditional definition then
      strays path options definition.content
    else
      lib.concatMap (
        name:
        if options ? ${name} then
          strays (path ++ [ name ]) options.${name} definition.${name}
        else
          [ (builtins.concatStringsSep "." (path ++ [ name ])) ]
      ) (attrNames definition);

  stray = lib.concatMap (module: strays [ ] declared module.config) all;

  config = value [ ] declared;
in
assert isAttrs arguments;
assert stray == [ ] || throw "there are no options ${builtins.concatStringsSep ", " stray}";
config
