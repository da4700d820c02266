//! TODO page.
