//! The licence and the source of every crate that any build of the workspace uses, checked against a list.
//!
//! Licences are SPDX expressions: names joined by `AND`, `OR` (older crates write `/`) and `WITH`, with parentheses.

use crate::command;
use anyhow::{Context, bail};
use serde_json::Value;

/// What a crate may be licensed under: permissive licences that go together with MIT OR Apache-2.0.
const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0", // of data: the list of certificate authorities
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// Crates that may be used under another licence, unchanged: it asks for no more than to say where their source is.
const EXCEPTIONS: [(&str, &str); 1] = [("option-ext", "MPL-2.0")]; // of hf-hub

/// Where a crate may come from.
const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks all crates and prints what is wrong.
pub fn check() -> anyhow::Result<()> {
    let output = command(env!("CARGO"), "metadata --format-version 1 --locked --all-features").output()?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let problems: Vec<String> = packages.iter().filter_map(problem).collect();
    for problem in &problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{} of {} crates may not be used", problems.len(), packages.len());
    }
    println!("{} crates, all from crates.io or this repository, all with a licence from the list", packages.len());
    Ok(())
}

/// What is wrong with a package of `cargo metadata`, if anything.
fn problem(package: &Value) -> Option<String> {
    let of = |key: &str| package[key].as_str();
    let name = format!("{} {}", of("name").unwrap_or("?"), of("version").unwrap_or("?"));
    if let Some(source) = of("source").filter(|source| *source != SOURCE) {
        return Some(format!("{name}: comes from {source}"));
    }
    match of("license") {
        None => Some(format!("{name}: states no licence expression")),
        Some(licence) if EXCEPTIONS.contains(&(of("name").unwrap_or("?"), licence)) => None,
        Some(licence) if !allowed(licence) => Some(format!("{name}: licence {licence} is not on the list")),
        Some(_) => None,
    }
}

/// Whether the expression can be met by licences of the list alone. What cannot be parsed is not allowed.
fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    any_of(&mut words) == Some(true) && words.is_empty()
}

/// `all {OR all}`, from the end of `words`, which are in reverse order.
fn any_of(words: &mut Vec<&str>) -> Option<bool> {
    let mut met = all_of(words)?;
    while words.pop_if(|word| *word == "OR").is_some() {
        met |= all_of(words)?;
    }
    Some(met)
}

/// `one {AND one}`, which binds more tightly than `OR`.
fn all_of(words: &mut Vec<&str>) -> Option<bool> {
    let mut met = one(words)?;
    while words.pop_if(|word| *word == "AND").is_some() {
        met &= one(words)?;
    }
    Some(met)
}

/// An expression in parentheses, or a licence with or without an exception.
fn one(words: &mut Vec<&str>) -> Option<bool> {
    let first = words.pop()?;
    if first == "(" {
        let met = any_of(words)?;
        return words.pop_if(|word| *word == ")").map(|_| met);
    }
    if words.pop_if(|word| *word == "WITH").is_none() {
        return Some(ALLOWED.contains(&first));
    }
    let licence = format!("{first} WITH {}", words.pop()?);
    Some(ALLOWED.contains(&licence.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_permitted_choice_is_enough() {
        for expression in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0-only OR MIT",
            "MIT OR Apache-2.0 OR LGPL-2.1-or-later",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0-only",
            "GPL-2.0-only AND MIT OR ISC",
        ] {
            assert!(allowed(expression), "{expression}");
        }
    }

    #[test]
    fn licences_off_the_list_and_nonsense_are_refused() {
        for expression in [
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "GPL-2.0-only WITH Classpath-exception-2.0",
            "MIT AND (GPL-3.0-only OR AGPL-3.0-only)",
            "",
            "MIT OR",
            "(MIT",
            "MIT)",
            "MIT Apache-2.0",
        ] {
            assert!(!allowed(expression), "{expression}");
        }
    }
}
