use std::collections::BTreeSet;

use http::Method;
use serde_json::Value;

use super::{
    document::{document, in_braces},
    operations::{Operation, TAGS, Verb, operations},
    page,
};
use crate::route::{GRPC, NO_ROUTE, Route};

fn method(operation: &Operation) -> Method {
    match operation.verb {
        Verb::Get => Method::GET,
        Verb::Post => Method::POST,
    }
}

/// A path that the template stands for.
fn concrete(path: &str) -> String {
    path.replace("{model}", "add").replace("{version}", "1").replace("{repository}", "main")
}

#[test]
fn every_path_of_the_table_leads_to_the_route_that_its_row_names() {
    for operation in operations() {
        for template in operation.paths {
            let path = concrete(template);
            assert!(!path.contains('{'), "{template} has a parameter that nobody describes");
            let route =
                Route::find(&method(operation), &path).unwrap_or_else(|_| panic!("{template} leads nowhere"));
            assert_eq!(route.label(), operation.label, "{template}");
            assert_eq!(route.is_free(), operation.is_free, "{template}");
            assert_eq!(route.is_free() || route.is_public(), operation.is_public, "{template}");
            // Where what is asked for says it, a row may know more.
            if let Some(permission) = route.permission() {
                assert_eq!(operation.permission, Some(permission), "{template}");
            }
        }
    }
}

#[test]
fn every_route_has_a_row_with_each_of_its_methods() {
    let rows: BTreeSet<&str> = operations().map(|operation| operation.label).collect();
    let routes: BTreeSet<&str> =
        Route::LABELS.into_iter().filter(|label| ![GRPC, NO_ROUTE].contains(label)).collect();
    assert_eq!(rows, routes);
    for operation in operations() {
        for method in [Method::GET, Method::POST] {
            let path = concrete(operation.paths[0]);
            if Route::find(&method, &path).is_ok() {
                let verb = if method == Method::GET { Verb::Get } else { Verb::Post };
                assert!(
                    operations().any(|row| row.label == operation.label && row.verb == verb),
                    "{path} takes {method}, and no row says so"
                );
            }
        }
    }
}

/// Every `$ref` in the document.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                found.insert(reference.clone());
            }
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(entries) => entries.iter().for_each(|entry| references(entry, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_to_a_component_and_every_component_is_referred_to() {
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for reference in &found {
        let pointer = reference.strip_prefix('#').expect("a reference within the document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    for kind in ["schemas", "parameters", "headers", "responses"] {
        let names = document["components"][kind].as_object().expect("an object");
        for name in names.keys() {
            let reference = format!("#/components/{kind}/{name}");
            // Of the errors, each status is there in both forms.
            assert!(kind == "responses" || found.contains(&reference), "{reference} is never used");
        }
    }
}

#[test]
fn operations_have_names_of_their_own_and_groups_that_there_are() {
    let document = document();
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for operation in item.as_object().expect("an item").values() {
            let id = operation["operationId"].as_str().expect("an id");
            assert!(ids.insert(id.to_owned()), "{id} is there twice");
            assert!(TAGS.iter().any(|(tag, _)| operation["tags"][0] == *tag), "{path}");
            assert!(!operation["summary"].as_str().unwrap_or_default().is_empty(), "{path}");
            assert_eq!(
                in_braces(path).count(),
                operation["parameters"].as_array().map_or(0, |all| {
                    let of_path = ["Model", "Version", "Repository"]
                        .map(|name| format!("#/components/parameters/{name}"));
                    all.iter().filter(|one| of_path.iter().any(|name| one["$ref"] == **name)).count()
                }),
                "{path}"
            );
        }
    }
}

#[test]
fn the_page_has_every_operation_and_nothing_from_elsewhere() {
    let html = page::page("0123");
    for operation in operations() {
        for path in operation.paths {
            assert!(html.contains(path), "{path}");
        }
    }
    for outside in ["src=\"http", "href=\"http", "src=\"//", " url(", "@import", "{{", "<!-- operations"] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert_eq!(html.matches("nonce=\"0123\"").count(), 2);
    assert!(!html.contains(" style=") && !html.contains(" onclick="), "the policy forbids them");
    assert!(page::policy("0123").contains("script-src 'nonce-0123'"));
}
