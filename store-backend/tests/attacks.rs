mod support;
use support::keys::*;
use support::package::*;
use support::site::Site;
#[test]
fn smoke() {
    let site = Site::new(two_of_three());
    let p = package("hello").signed_by(&[&alice(), &bob()]);
    site.admit(&[&p]);
    assert_eq!(site.raw().nar(&p).unwrap(), p.nar);
    let mut stranger = site.stranger();
    assert!(stranger.is_valid(p.path()));
    let mut path = p.path().to_basename();
    path.push_str("-evil");
    let evil = verifier::StorePath::from_basename(path.as_bytes()).unwrap();
    assert!(!stranger.is_valid(&evil), "misnamed");
}
