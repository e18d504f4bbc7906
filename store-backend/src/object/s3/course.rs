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

    /// Notes whether the provider says that there is more, and where the next page is.
    ///
    /// # Errors
    /// When the listing comes to no end, or ends before it is whole, with the reason.
    pub(super) fn go_on(&mut self, is_truncated: bool, next: Option<&str>) -> Result<(), String> {
        self.from = next.filter(|_| is_truncated).map(str::to_owned);
        let Some(next) = &self.from else {
            if is_truncated {
                return Err("the provider says that there is more, and not where it goes on".into());
            }
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
            course.go_on(true, Some(token)).expect("it goes on");
            assert!(!course.has_ended());
            assert_eq!(course.from().as_deref(), Some(token));
        }
        course.go_on(false, Some("d")).expect("it ends");
        assert!(course.has_ended());
        assert!(course.go_on(true, None).is_err(), "it is not whole");
        let mut course = Course::default();
        let goes_on = |course: &mut Course, token: &str| course.go_on(true, Some(token)).is_ok();
        let [a, b, again] = ["a", "b", "a"].map(|token| goes_on(&mut course, token));
        assert!(a && b && !again, "it goes round");
        let mut course = Course::default();
        assert!(goes_on(&mut course, "a") && !goes_on(&mut course, "a"), "it stays where it is");
        let mut course = Course::default();
        let pages = (0..).take_while(|page| goes_on(&mut course, &page.to_string())).count();
        assert_eq!(pages, MOST_PAGES - 1);
    }
}
