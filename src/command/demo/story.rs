//! The steps of the demonstration, in their order. Each is one short function.

use std::fmt::Write as _;

use super::client::{Client, known};
use super::package::{Package, write_cache};
use super::programs::own;
use super::stage::{KEYS, Stage};
use super::step::{By, Run, Step};
use crate::command::CommandError;

/// Takes a step as soon as it is done.
pub(super) type Teller<'a> = &'a mut dyn FnMut(Step) -> Result<(), CommandError>;

/// Goes through all steps.
///
/// # Errors
/// When a step cannot even be tried. One that does not do what it should is told as such.
pub(super) async fn tell(stage: &Stage, client: &Client, teller: Teller<'_>) -> Result<(), CommandError> {
    teller(builders(stage).await?)?;
    teller(renamed_key(stage).await?)?;
    teller(gate(stage).await?)?;
    let library = Package::library();
    let program = Package::program(&library);
    teller(one_builder(stage, client, &library, &program).await?)?;
    teller(one_builder_thrice(stage, client, &library, &program).await?)?;
    teller(two_builders(stage, client, &library, &program).await?)?;
    teller(reading(stage, client, &library, &program).await?)?;
    teller(false_address(stage, client).await?)?;
    teller(verification(stage, &program).await?)?;
    teller(damage(stage, &library, &program).await?)
}

async fn builders(stage: &Stage) -> Result<Step, CommandError> {
    let mut runs = Vec::new();
    for (_, key) in KEYS {
        runs.push(own(stage, &["key", "generate", "--key-name", key, &format!("{key}.sec")]).await);
    }
    stage.write("policy.toml", policy(stage, &[])?)?;
    runs.push(own(stage, &["policy", "check", "policy.toml"]).await);
    Ok(Step {
        title: "Three builders, and a policy that wants two of them",
        explanation:
            "Each builder makes a key pair, which never leaves it; builder-eu has a new key beside its old one. The \
                      policy lists their public keys, and says that any two builders have to agree."
                .into(),
        expected: "a policy that can be met",
        as_expected: runs.iter().all(|run| run.exited(0)),
        runs,
    })
}

/// Returns the policy's text, with further signers that have a key of another's under a new name.
fn policy(stage: &Stage, renamed: &[(&str, &str)]) -> Result<String, CommandError> {
    let mut signers: Vec<(String, Vec<String>)> = Vec::new();
    for (signer, name) in KEYS {
        let key = stage.key(name)?.public().to_string();
        match signers.iter_mut().find(|(known, _)| known == signer) {
            Some((_, keys)) => keys.push(key),
            None => signers.push((signer.to_owned(), vec![key])),
        }
    }
    for (signer, name) in renamed {
        let key = stage.key(name)?.public().to_string();
        let bytes = key.split_once(':').map_or(key.as_str(), |(_, bytes)| bytes);
        signers.push(((*signer).to_owned(), vec![format!("{signer}-1:{bytes}")]));
    }
    let mut text = "version = 1\n\n".to_owned();
    for (signer, keys) in &signers {
        let _ = writeln!(text, "[signers.{signer}]\nkeys = {keys:?}\n");
    }
    let names: Vec<&String> = signers.iter().map(|(signer, _)| signer).collect();
    let _ = write!(text, "[groups]\nbuilders = {names:?}\n\n");
    text += "[default]\nrequire = { at-least = 2, of = \"builders\" }\n";
    Ok(text)
}

async fn renamed_key(stage: &Stage) -> Result<Step, CommandError> {
    stage.write("renamed.toml", policy(stage, &[("builder-xx", "eu-1")])?)?;
    let run = own(stage, &["policy", "check", "renamed.toml"]).await;
    Ok(Step {
        title: "One key under two names",
        explanation:
            "Nix would count it as two. A policy in which builder-eu's key stands again, as builder-xx's, is refused \
                      before it can do harm."
                .into(),
        expected: "the policy is refused",
        as_expected: run.failed_with("builder-xx"),
        runs: vec![run],
    })
}

async fn gate(stage: &Stage) -> Result<Step, CommandError> {
    stage.serve().await?;
    let command = "nix-quorum serve --store file://$PWD/store --policy policy.toml --socket $PWD/store.sock &".into();
    let run = Run { command, by: By::ThisProcess, exit: None, output: Vec::new() };
    Ok(Step {
        title: "A gate before an empty store",
        explanation: "Any Nix client can use it as a store, and nobody can write to the store but through it.".into(),
        expected: "it listens",
        as_expected: stage.at("store.sock").exists(),
        runs: vec![run],
    })
}

async fn one_builder(
    stage: &Stage,
    client: &Client,
    library: &Package,
    program: &Package,
) -> Result<Step, CommandError> {
    let eu = stage.key("eu-1")?;
    let closure = [&library.signed(&[&eu]), &program.signed(&[&eu])];
    write_cache(stage, "one-builder", &closure)?;
    let run = client.copy(stage, "one-builder", &closure[..1], closure[1]).await;
    Ok(Step {
        title: "Vouched for by one builder",
        explanation:
            "builder-eu has built a program and the library it refers to, and has signed both. One builder can be \
                      wrong, or broken into, so this is not enough."
                .into(),
        expected: "refused, and nothing is kept",
        as_expected: run.failed_with("quorum-missing") && !is_valid(stage, library).await,
        runs: vec![run],
    })
}

async fn one_builder_thrice(
    stage: &Stage,
    client: &Client,
    library: &Package,
    program: &Package,
) -> Result<Step, CommandError> {
    let (eu, new) = (stage.key("eu-1")?, stage.key("eu-2")?);
    let thrice = |package: &Package| package.signed_in_two_spellings(&eu).signed(&[&new]);
    let closure = [&thrice(library), &thrice(program)];
    write_cache(stage, "one-builder-thrice", &closure)?;
    let run = client.copy(stage, "one-builder-thrice", &closure[..1], closure[1]).await;
    Ok(Step {
        title: "Vouched for three times, by one builder",
        explanation:
            "Now there are three signatures: builder-eu's, the same once more with its base64 spelled otherwise, and \
                      one by builder-eu's second key. (Newer clients drop the second spelling themselves.) Signers are \
                      counted, never signatures."
                .into(),
        expected: "refused",
        as_expected: run.failed_with("duplicate-signer") && !is_valid(stage, library).await,
        runs: vec![run],
    })
}

async fn two_builders(
    stage: &Stage,
    client: &Client,
    library: &Package,
    program: &Package,
) -> Result<Step, CommandError> {
    let (eu, us) = (stage.key("eu-1")?, stage.key("us-1")?);
    let closure = [&library.signed(&[&eu, &us]), &program.signed(&[&eu, &us])];
    write_cache(stage, "two-builders", &closure)?;
    let run = client.copy(stage, "two-builders", &closure[..1], closure[1]).await;
    Ok(Step {
        title: "Vouched for by two builders",
        explanation: "builder-us has built the same, got the same bytes, and signed them too.".into(),
        expected: "admitted",
        as_expected: run.exited(0) && is_valid(stage, library).await && is_valid(stage, program).await,
        runs: vec![run],
    })
}

async fn reading(stage: &Stage, client: &Client, library: &Package, program: &Package) -> Result<Step, CommandError> {
    let runs = vec![client.path_info(stage, program).await, client.contents(stage, library, "share/greeting").await];
    let (text, hash) = ("what two builders vouched for", library.info.nar_hash.to_base16());
    let read = |run: &Run| run.output.iter().any(|line| line.contains(text) || line.contains(&hash));
    let same = |known: &verifier::PathInfo| known.nar_hash == program.info.nar_hash && known.signatures.len() == 2;
    Ok(Step {
        title: "What is read back",
        explanation: format!(
            "The path, its size and who signed it, as any client asks for it; and contents, whose hash the gate checks again \
             on the way out. The NAR hash of the program is {}, that of the library {} ({}).",
            program.info.nar_hash, library.info.nar_hash, hash,
        ),
        expected: "what was signed",
        as_expected: runs.iter().all(|run| run.exited(0))
            && runs.last().is_some_and(read)
            && known(stage, program).await.is_ok_and(|known| known.as_ref().is_some_and(same)),
        runs,
    })
}

async fn false_address(stage: &Stage, client: &Client) -> Result<Step, CommandError> {
    let liar = Package::liar();
    write_cache(stage, "liar", &[&liar])?;
    let run = client.copy(stage, "liar", &[], &liar).await;
    Ok(Step {
        title: "A false content address",
        explanation:
            "A path that is named by its own contents needs no signatures, once that is shown. This one says that it \
                      is, and holds something else; `nix store verify --sigs-needed 1000` would let it pass."
                .into(),
        expected: "refused",
        as_expected: run.failed_with("false-content-address") && !is_valid(stage, &liar).await,
        runs: vec![run],
    })
}

async fn verification(stage: &Stage, program: &Package) -> Result<Step, CommandError> {
    let run = verify(stage, program).await;
    Ok(Step {
        title: "Looking again, later",
        explanation:
            "verify believes nothing that the store says: it checks each signature and reads each byte. What the \
                      store keeps is a plain binary cache, which Nix can read without us."
                .into(),
        expected: "exit code 0: everything stands",
        as_expected: run.exited(0),
        runs: vec![run],
    })
}

async fn damage(stage: &Stage, library: &Package, program: &Package) -> Result<Step, CommandError> {
    let nar = format!("store/nar/{}.nar.zst", library.info.nar_hash.to_nix32());
    let place = stage.at(&nar);
    let failed = |source| CommandError::Io { action: "read", place: place.display().to_string(), source };
    let mut bytes = std::fs::read(&place).map_err(failed)?;
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    stage.write(&nar, bytes)?;
    let run = verify(stage, program).await;
    Ok(Step {
        title: "One flipped bit",
        explanation: format!(
            "Somebody changed byte {middle} of the library's NAR, {nar}. With it falls the program that refers to it."
        ),
        expected: "exit code 1: something is corrupted",
        as_expected: run.exited(1),
        runs: vec![run],
    })
}

async fn verify(stage: &Stage, program: &Package) -> Run {
    let store = format!("file://{}/store", stage.place());
    let path = program.path();
    own(stage, &["verify", "--store", &store, "--policy", "policy.toml", "--recursive", &path]).await
}

async fn is_valid(stage: &Stage, package: &Package) -> bool {
    known(stage, package).await.is_ok_and(|known| known.is_some())
}
