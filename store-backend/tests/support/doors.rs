//! The ways by which a path comes in: whatever is tried at one is tried at all of them.

use store_backend::client::ClientError;

use super::package::Package;
use super::site::Site;
use super::words::add_to_store_nar;

/// Offers a path that must be refused, at every door, by somebody with and without trust. After each refusal the session
/// must still answer, and nothing of the path may be left. Returns what was said, which must be the same everywhere.
pub fn refused_everywhere(site: &Site, package: &Package) -> String {
    let before = site.files();
    let mut said = Vec::new();
    for mut raw in [site.raw(), site.stranger()] {
        said.push(raw.upload(&[package]).expect_err("it must be refused"));
        assert!(!raw.is_valid(package.path()), "the session goes on, and the path is not valid");
        said.push(raw.ask(&add_to_store_nar(package)).expect_err("it must be refused"));
        assert_eq!(raw.path_info(package.path()), None);
        assert!(raw.nar(package).expect_err("it must not be served").contains("is not valid"));
    }
    let mut client = site.client();
    match site.runtime.block_on(client.add_to_store(&package.info, &package.nar)) {
        Err(ClientError::Remote(text)) => said.push(text),
        other => panic!("{other:?}"),
    }
    assert_eq!(site.files(), before, "nothing is left of what was refused");
    let text = said.pop().expect("five were refused");
    assert!(said.iter().all(|other| *other == text), "{said:?} and {text}");
    assert!(!text.chars().any(char::is_control), "{text:?}");
    text
}

/// Offers a path that must be admitted, at every door, each time to a store that has nothing of it.
pub fn admitted_everywhere(new: impl Fn() -> Site, before: &[&Package], package: &Package) {
    for door in 0..5 {
        let site = new();
        if !before.is_empty() {
            site.admit(before);
        }
        match door {
            0 => site.raw().upload(&[package]).expect("it must be admitted"),
            1 => site.stranger().upload(&[package]).expect("it must be admitted"),
            2 => site.raw().ask(&add_to_store_nar(package)).expect("it must be admitted"),
            3 => site.stranger().ask(&add_to_store_nar(package)).expect("it must be admitted"),
            _ => site
                .runtime
                .block_on(site.client().add_to_store(&package.info, &package.nar))
                .expect("it must be admitted"),
        }
        let mut raw = site.stranger();
        assert!(raw.is_valid(package.path()));
        assert_eq!(raw.nar(package).expect("it is served"), package.nar);
        let info = raw.path_info(package.path()).expect("it is valid");
        assert_eq!((info.nar_hash, info.nar_size), (package.info.nar_hash, package.info.nar_size));
        assert_eq!((&info.references, info.ultimate), (&package.info.references, false));
        assert_eq!(site.temporary_files(), [""; 0]);
    }
}
