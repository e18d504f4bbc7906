//! Numbers as people read them.

/// Writes a number with the noun it counts: `1 path`, `2 paths`.
pub(super) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Writes a number of bytes: `999 bytes`, `1.0 kB`, `20.1 MB`.
pub(super) fn bytes(number: u64) -> String {
    let mut scaled = number as f64;
    let mut unit = "bytes";
    for larger in ["kB", "MB", "GB", "TB"] {
        // What would be rounded up to 1000 is shown in the next unit.
        if scaled < 999.95 {
            break;
        }
        scaled /= 1000.0;
        unit = larger;
    }
    match (number, unit) {
        (1, _) => "1 byte".to_owned(),
        (_, "bytes") => format!("{number} bytes"),
        _ => format!("{scaled:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units() {
        assert_eq!((count(1, "path"), count(0, "path")), ("1 path".into(), "0 paths".into()));
        let cases = [
            (0, "0 bytes"),
            (1, "1 byte"),
            (999, "999 bytes"),
            (1_000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (20_100_000, "20.1 MB"),
            (u64::MAX, "18446744.1 TB"),
        ];
        for (number, expected) in cases {
            assert_eq!(bytes(number), expected);
        }
    }
}
