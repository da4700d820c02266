//! Defects of ours: what a panic said, for the log. It ends the task that it happened in, and what depends on that.

use std::any::Any;

/// What a panic said. Most say text; others nothing that can be read.
pub(crate) fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it said nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_in_its_own_words() {
        assert_eq!(words(&"a plain one"), "a plain one");
        assert_eq!(words(&format!("one with {}", 7)), "one with 7");
        assert_eq!(words(&7), "it said nothing");
    }
}
