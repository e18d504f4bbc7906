//! The course of a listing: where it goes on, and where it has been. Who lists without end makes it up.

use std::collections::HashSet;
use std::hash::BuildHasher as _;

/// Most pages of one listing: a hundred million objects, a thousand to a page.
const MOST_PAGES: usize = 100_000;

/// How far a listing has come.
#[derive(Default)]
pub(super) struct Course {
    /// What the next page is asked for with; none for the first, and after the last.
    from: Option<String>,
    /// Hashes of what pages were asked for with.
    been: HashSet<u64>,
}

impl Course {
    pub(super) fn from(&self) -> Option<String> {
        self.from.clone()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.from.is_none()
    }

    /// Notes where the provider says that the next page is; none after the last.
    ///
    /// # Errors
    /// When the listing comes to no end, with the reason.
    pub(super) fn go_on(&mut self, next: Option<&str>) -> Result<(), String> {
        self.from = next.map(str::to_owned);
        let Some(next) = next else {
            return Ok(());
        };
        if !self.been.insert(self.been.hasher().hash_one(next)) {
            return Err("the provider lists the same page again and again".into());
        }
        if self.been.len() >= MOST_PAGES {
            return Err(format!("the provider lists more than {MOST_PAGES} pages"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_comes_to_an_end() {
        let mut course = Course::default();
        assert!(course.has_ended());
        for token in ["a", "b", "c"] {
            course.go_on(Some(token)).expect("it goes on");
            assert!(!course.has_ended());
            assert_eq!(course.from().as_deref(), Some(token));
        }
        course.go_on(None).expect("it ends");
        assert!(course.has_ended());
        let mut course = Course::default();
        let mut goes_on = |token: &str| course.go_on(Some(token)).is_ok();
        assert!(goes_on("a") && goes_on("b") && !goes_on("a"), "it goes round");
        let mut course = Course::default();
        assert!(course.go_on(Some("a")).is_ok() && course.go_on(Some("a")).is_err(), "it stays where it is");
        let mut course = Course::default();
        let pages = (0..).take_while(|page| course.go_on(Some(&page.to_string())).is_ok()).count();
        assert_eq!(pages, MOST_PAGES - 1);
    }
}
