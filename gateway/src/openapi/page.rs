//! The page that shows the document: one file, with no part of it from elsewhere.
//!
//! Its list of operations is there without JavaScript; with it, the page reads `/openapi.json` and lets people try.

use super::operations::{Operation, TAGS, operations};

const PAGE: &str = include_str!("page.html");

/// Where the list of operations goes.
const LIST: &str = "<!-- operations -->";

/// The place of a word that is new for each answer, and that only the page's own script and style have.
const NONCE: &str = "{{nonce}}";

/// What a browser may do for the page: run the script and the style that have this word, and ask this door.
pub(super) fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
}

/// The page, for that policy.
pub(super) fn page(nonce: &str) -> String {
    PAGE.replace(LIST, &list()).replace(NONCE, nonce)
}

/// Every operation with its words, by groups.
fn list() -> String {
    let mut html = String::new();
    for (tag, about) in TAGS {
        html += &format!("<section><h2>{}</h2><p>{}</p><dl>", escaped(tag), escaped(about));
        for operation in operations().filter(|operation| operation.tag == tag) {
            html += &entry(operation);
        }
        html += "</dl></section>\n";
    }
    html
}

fn entry(operation: &Operation) -> String {
    let verb = operation.verb.as_str().to_ascii_uppercase();
    let paths: Vec<_> =
        operation.paths.iter().map(|path| format!("<code>{}</code>", escaped(path))).collect();
    let (paths, summary, text) = (paths.join(", "), escaped(operation.summary), escaped(operation.text));
    format!("<dt><b>{verb}</b> {paths}</dt><dd>{summary}. {text}</dd>\n")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
