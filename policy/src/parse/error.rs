//! What can be wrong with a policy text, and what to do about it.

use std::sync::Arc;

use thiserror::Error;
use verifier::KeyError;

use crate::phrase;

/// One thing that is wrong with a policy. Whoever wrote the policy caused it. Texts from the policy are escaped.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The text is not TOML.
    #[error("this is not TOML: {0}")]
    Syntax(String),
    /// Something is over its limit.
    #[error("{what} has {got} {unit}, expected at most {limit}")]
    TooMuch {
        /// What is too large.
        what: &'static str,
        /// Its size.
        got: usize,
        /// The limit.
        limit: usize,
        /// What both are counted in.
        unit: &'static str,
    },
    /// A field that is not in the language.
    #[error("unknown field `{field}` in {within}")]
    UnknownField {
        /// The field.
        field: String,
        /// Where it stands.
        within: Arc<str>,
        /// The fields that may stand there.
        known: Vec<&'static str>,
        /// The one that looks most like it.
        near: Option<&'static str>,
    },
    /// A field that has to be there is not.
    #[error("`{field}` is missing in {within}")]
    MissingField {
        /// The field.
        field: &'static str,
        /// Where it is missing.
        within: Arc<str>,
    },
    /// A value of the wrong kind.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// The kind that is read here.
        expected: &'static str,
        /// The kind that came.
        found: &'static str,
    },
    /// A word that is none of the choices.
    #[error("expected {}, found \"{found}\"", phrase::list(choices.iter().map(|choice| format!("\"{choice}\"")), "or"))]
    UnknownChoice {
        /// The word that came.
        found: String,
        /// The words that are read here.
        choices: Vec<&'static str>,
    },
    /// Nothing where something has to be.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// The version is not a number of at least 1.
    #[error("expected a version of at least 1, found {0}")]
    BadVersion(i128),
    /// A moment without a date, a time or an offset from UTC.
    #[error("expected a date with time and offset, found {0}")]
    BadDate(String),
    /// The store directory is not an absolute path in its shortest form.
    #[error("expected an absolute path without `.`, `..` or a `/` at its end, found \"{0}\"")]
    BadStoreDir(String),
    /// A signer's or group's name holds characters that would make sentences about it unclear, or is too long.
    #[error("\"{0}\" cannot be the name of a signer or group")]
    BadName(String),
    /// A public key that cannot be used.
    #[error("this is not a public key: {0}")]
    BadKey(#[from] KeyError),
    /// A secret key, which no policy may hold.
    #[error("this is a secret key")]
    SecretKey,
    /// Two entries hold the same key: it would have two votes, or none could say whose it is.
    #[error("the key {key} stands here for {second} and on line {line} for {first}: the same 32 bytes are one key")]
    KeyTwice {
        /// The key, as it is spelled here.
        key: String,
        /// The signer that has it first.
        first: Arc<str>,
        /// The line on which it stands first.
        line: usize,
        /// The signer that has it again; it may be the same.
        second: Arc<str>,
    },
    /// A key whose time is over before it begins.
    #[error("this key never counts: `not-after` is not later than `not-before`")]
    EmptyWindow,
    /// A signer twice in one list.
    #[error("{0} stands twice in this list, but has one vote")]
    SignerTwice(String),
    /// A group and a signer of one name.
    #[error("{0} is the name of a signer and of a group")]
    NameTwice(String),
    /// A name that is no signer's and no group's.
    #[error("there is no {expected} \"{name}\"")]
    UnknownName {
        /// The name.
        name: String,
        /// What may stand here, in words.
        expected: &'static str,
        /// The name that looks most like it.
        near: Option<String>,
    },
    /// A group where signers are listed.
    #[error("{0} is a group: a list holds signers")]
    GroupInList(String),
    /// A group without a number.
    #[error("{0} is a group: it has to be said how many of it")]
    GroupAlone(String),
    /// One signer where a group is expected.
    #[error("{0} is a signer, not a group")]
    SignerAsGroup(String),
    /// A requirement that is none of the three forms, or several.
    #[error("a requirement is one of `at-least` with `of`, `all`, or `any`")]
    RequirementForm,
    /// A count of 0 or less.
    #[error("`at-least` is {0}, which would require nobody")]
    CountTooSmall(i128),
    /// A count that is higher than the number of signers.
    #[error("`at-least` is {count}, of {}", phrase::count(*signers, "signer"))]
    CountTooLarge {
        /// The count.
        count: i128,
        /// How many signers there are, each counted once.
        signers: usize,
    },
    /// A requirement that everybody together cannot meet.
    #[error("this can never be met, because all keys of {0} are revoked")]
    Unsatisfiable(String),
    /// A requirement that is nested too deeply.
    #[error("this requirement is nested more than {limit} levels deep", limit = super::limits::DEPTH)]
    TooDeep,
    /// A glob that can match no store path's name.
    #[error("the glob \"{glob}\" can match nothing: {why}")]
    BadGlob {
        /// The glob.
        glob: String,
        /// What is wrong with it.
        why: String,
    },
    /// Two rules of one name.
    #[error("there is a rule \"{0}\" before this one")]
    RuleTwice(String),
    /// A rule that demands nothing.
    #[error("this rule demands nothing")]
    IdleRule,
    /// A rule that would loosen what the default demands.
    #[error("a rule cannot say `content-addressed = \"recompute\"`: rules only tighten, as builders choose the names")]
    LooseRule,
}

const DATE: &str = "write it in full, such as 2027-06-01T00:00:00Z, without quotes";

impl PolicyError {
    /// Returns what to do about it.
    #[must_use]
    pub fn advice(&self) -> String {
        let text = match self {
            Self::Syntax(message) if message.contains("duplicate") => {
                "each name and field stands once: put both into one, or rename one of them"
            }
            Self::Syntax(_) => "see https://toml.io for how values are written",
            Self::TooMuch { .. } => "make it smaller; the limit is far above what a policy needs",
            Self::UnknownField { near: Some(near), .. } => return format!("did you mean `{near}`?"),
            Self::UnknownField { known, .. } => {
                let fields: Vec<String> = known.iter().map(|field| format!("`{field}`")).collect();
                return match &fields[..] {
                    [only] => format!("the only field here is {only}"),
                    several => format!("the fields here are {}", several.join(", ")),
                };
            }
            Self::MissingField { field, .. } => return missing_advice(field),
            Self::WrongType { expected, .. } if expected.starts_with("a date") => DATE,
            Self::WrongType { expected, .. } => return format!("write {expected} here"),
            Self::UnknownChoice { .. } => "write one of these words",
            Self::Empty(_) => "put something into it, or take it away",
            Self::BadVersion(_) => "start with `version = 1`, and raise it with each change",
            Self::BadDate(_) => DATE,
            Self::BadStoreDir(_) => "most stores use \"/nix/store\", which is the default",
            Self::BadName(_) => "use up to 64 ASCII letters, digits, and `-`, `_`, `.`, `+` or `@`",
            Self::BadKey(_) => "copy the key as its owner publishes it, such as cache.example.org-1:…",
            Self::SecretKey => {
                "take it out, and put in what `nix key convert-secret-to-public` makes of it; whoever could read this \
                 file has the secret, so better make a new key"
            }
            Self::KeyTwice { .. } => "take one of the two away; one party with several keys is one signer",
            Self::EmptyWindow => "exchange the two dates, or take the key away",
            Self::SignerTwice(_) => "take the second one away",
            Self::NameTwice(_) => "rename one of them",
            Self::UnknownName { near: Some(near), .. } => return format!("did you mean \"{near}\"?"),
            Self::UnknownName { .. } => "define it as [signers.NAME], or mend the spelling",
            Self::GroupInList(_) => "list its signers, or require it by itself with `at-least` and `of`",
            Self::GroupAlone(name) => {
                return format!("write {{ at-least = 2, of = \"{name}\" }}, with the number you need");
            }
            Self::SignerAsGroup(name) => return format!("require \"{name}\" by itself, or write of = [\"{name}\", …]"),
            Self::RequirementForm => {
                "nest them if you need more, such as { all = [\"a\", { at-least = 2, of = \"b\" }] }"
            }
            Self::CountTooSmall(_) => "write how many signers are needed, at least 1",
            Self::CountTooLarge { .. } => "lower the count, or add signers",
            Self::Unsatisfiable(_) => "give the signers keys that are not revoked, or change the requirement",
            Self::TooDeep => "name groups of signers instead of nesting",
            Self::BadGlob { .. } => {
                "a glob is held against what follows the hash, as in `linux-*`; `*` is any text, `?` one character"
            }
            Self::RuleTwice(_) => "give each rule a name of its own: messages speak of it",
            Self::IdleRule => "add `require`, or `content-addressed = \"require\"`, or take the rule away",
            Self::LooseRule => "take the line away, or change `content-addressed` in [default]",
        };
        text.to_owned()
    }
}

fn missing_advice(field: &str) -> String {
    match field {
        "version" => "add `version = 1` at the top, and raise it with each change".to_owned(),
        "signers" => "add a table such as [signers.alice] with `keys = [\"alice-1:…\"]`".to_owned(),
        "default" => "add a table [default] with `require = …`".to_owned(),
        "require" => "say who must sign, such as `require = { at-least = 2, of = \"builders\" }`".to_owned(),
        "paths" => "say which names the rule is for, such as `paths = [\"linux-*\"]`".to_owned(),
        "of" => "say of whom: a group's name, or a list of signers".to_owned(),
        "at-least" => "say how many, such as `at-least = 2`".to_owned(),
        other => format!("add `{other} = …`"),
    }
}
