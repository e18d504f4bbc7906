/// Returns 128 random bits as 32 hexadecimal digits: a name that nobody else has, and that nobody can guess.
///
/// # Panics
/// When the system has no randomness to give, which Linux does not do once it has started.
pub(crate) fn nonce() -> String {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).expect("Linux gives random bytes once it has started");
    verifier::base16::encode(&bytes)
}
