//! Which module uses which, as the sources say: data flows one way, and no two
//! modules beside each other need each other.

use std::collections::{BTreeMap, BTreeSet};

use super::tidy::{sources, without_tests};

/// A module by its path, as `["http", "route"]`; the crate itself is empty.
type Module = Vec<String>;

/// Every module of the crate that has a file, and what is in it.
fn modules() -> BTreeMap<Module, String> {
    let mut found = BTreeMap::new();
    for (path, text) in sources("src") {
        let below = path.strip_prefix("src").unwrap().with_extension("");
        let mut module: Module = below
            .iter()
            .map(|part| part.to_str().unwrap().to_string())
            .collect();
        let name = module.last().unwrap().clone();
        if name == "tests" || name.ends_with("_tests") {
            continue;
        }
        if ["mod", "lib", "main"].contains(&name.as_str()) {
            module.pop();
        }
        found.entry(module).or_insert_with(String::new).push_str(&text);
    }
    found
}

/// The code of a file without comments, texts, and what is for tests alone.
fn code(text: &str) -> String {
    let text: String =
        without_tests(text).map(|line| format!("{line}\n")).collect();
    let mut code = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => {
                while chars.next_if(|c| *c != '\n').is_some() {}
            }
            '"' => {
                code.push_str("\"\"");
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => drop(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            'r' => match raw_text(&code, chars.clone()) {
                Some(length) => chars.by_ref().take(length).for_each(drop),
                None => code.push('r'),
            },
            // A quote or a brace as a character begins nothing.
            '\'' => {
                let mut rest = chars.clone();
                let is_escape = rest.next() == Some('\\');
                if is_escape || rest.next() == Some('\'') {
                    chars.next();
                    if is_escape {
                        chars.next();
                    }
                    while chars.next_if(|c| *c != '\'').is_some() {}
                    chars.next();
                }
            }
            c => code.push(c),
        }
    }
    code
}

/// The length of a raw text, if one follows an `r` that no name ends with.
fn raw_text(
    before: &str,
    after: impl Iterator<Item = char> + Clone,
) -> Option<usize> {
    let is_of_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut next = after.clone();
    if before.ends_with(is_of_name)
        || !next.next().is_some_and(|c| c == '#' || c == '"')
    {
        return None;
    }
    let text: String = after.collect();
    let hashes = text.len() - text.trim_start_matches('#').len();
    let body = text[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end)?;
    Some(hashes + 1 + body[..length].chars().count() + end.len())
}

/// The paths that begin with `crate` or `super` in a piece of code, groups in
/// braces written out.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for word in ["crate", "super"] {
        for (at, _) in code.match_indices(word) {
            let before = code[..at].chars().next_back();
            let is_begun = |c: char| c.is_alphanumeric() || "_:".contains(c);
            if before.is_none_or(|c| !is_begun(c))
                && code[at + word.len()..].starts_with("::")
            {
                read_tree(&code[at..], &[], &mut paths);
            }
        }
    }
    paths
}

/// Reads a path, or the tree of a `use`; returns what follows.
fn read_tree<'a>(
    code: &'a str,
    above: &[String],
    to: &mut Vec<Vec<String>>,
) -> &'a str {
    let mut path = above.to_vec();
    let mut rest = code.trim_start();
    loop {
        let is_of_name = |c: char| c.is_alphanumeric() || c == '_';
        let end = rest.find(|c| !is_of_name(c)).unwrap_or(rest.len());
        path.push(rest[..end].to_string());
        rest = &rest[end..];
        let Some(after) = rest.strip_prefix("::") else { break };
        rest = after.trim_start();
        let Some(mut group) = rest.strip_prefix('{') else { continue };
        loop {
            group = group.trim_start();
            if let Some(after) = group.strip_prefix('}') {
                return after;
            }
            if let Some(after) = group.strip_prefix(',') {
                group = after;
                continue;
            }
            let after = read_tree(group, &path, to);
            // A star, a new name, or what this does not know.
            let end = after.find([',', '}']).unwrap_or(after.len());
            group = &after[end..];
            if group.is_empty() {
                return group;
            }
        }
    }
    to.push(path);
    rest
}

/// The module that a path is in, seen from another.
fn module_of(
    path: &[String],
    from: &Module,
    all: &BTreeMap<Module, String>,
) -> Module {
    let mut at: Module = match path[0].as_str() {
        "super" => from[..from.len().saturating_sub(1)].to_vec(),
        _ => Vec::new(),
    };
    for part in &path[1..] {
        if part == "super" {
            at.pop();
            continue;
        }
        at.push(part.clone());
        if !all.contains_key(&at) {
            at.pop();
            break;
        }
    }
    at
}

/// Who uses whom, among modules beside each other: each by its parent.
fn uses() -> BTreeMap<Module, BTreeMap<String, BTreeSet<String>>> {
    let all = modules();
    let mut uses: BTreeMap<_, BTreeMap<String, BTreeSet<String>>> =
        BTreeMap::new();
    for (module, text) in &all {
        for path in paths(&code(text)) {
            let used = module_of(&path, module, &all);
            let common =
                module.iter().zip(&used).take_while(|(a, b)| a == b).count();
            // A module and what is below it are one.
            if let (Some(a), Some(b)) = (module.get(common), used.get(common)) {
                let parent = module[..common].to_vec();
                let beside = uses.entry(parent).or_default();
                beside.entry(a.clone()).or_default().insert(b.clone());
            }
        }
    }
    uses
}

/// What a module needs, and what that needs, and so on.
fn reached(
    from: &str,
    uses: &BTreeMap<String, BTreeSet<String>>,
) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut left: Vec<&str> = vec![from];
    while let Some(module) = left.pop() {
        for next in uses.get(module).into_iter().flatten() {
            if reached.insert(next.clone()) {
                left.push(next);
            }
        }
    }
    reached
}

#[test]
fn sibling_modules_have_no_import_cycles() {
    let mut cycles = BTreeSet::new();
    for (parent, uses) in uses() {
        for module in uses.keys() {
            let needed = reached(module, &uses);
            if !needed.contains(module) {
                continue;
            }
            let of_cycle = needed.iter().filter(|other| {
                *other == module || reached(other, &uses).contains(module)
            });
            let names: Vec<_> = of_cycle.map(String::as_str).collect();
            let parent = parent.join("::");
            cycles.insert(format!("{parent}: {}", names.join(" ")));
        }
    }
    assert_eq!(cycles, BTreeSet::new());
}

#[test]
fn modules_only_use_modules_that_lib_rs_lists_before_them() {
    let root = &modules()[&Module::new()];
    let order: Vec<&str> = root
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    let uses = &uses()[&Module::new()];
    assert!(uses.keys().count() >= 20);
    for (module, used) in uses {
        let place = order.iter().position(|name| name == module);
        // The binaries stand on all of them.
        let above = &order[..place.unwrap_or(order.len())];
        for name in used {
            let is_above = above.contains(&name.as_str());
            assert!(is_above, "{module} uses {name}, which is not above it");
        }
    }
}

#[test]
fn the_stages_do_not_import_each_other() {
    // Who may use whom besides: daemon joins the stages.
    let stages = ["watch", "plan", "queue", "load", "hub", "cache", "http"];
    let allowed = [
        ("cache", "hub"),
        ("cache", "load"),
        ("cache", "plan"),
        ("http", "cache"),
        ("http", "hub"),
    ];
    let uses = &uses()[&Module::new()];
    for stage in stages {
        for other in &uses[stage] {
            let may = !stages.contains(&other.as_str())
                || allowed.contains(&(stage, other));
            assert!(may, "{stage} uses {other}");
        }
    }
}

#[test]
fn the_use_parser_reads_groups_and_relative_paths() {
    let code = "use crate::a::{self, b::{C, d}, e as f};\n\
        let x = super::super::g::h(); mycrate::i; use crate::j::*;";
    let read: Vec<_> = paths(code).iter().map(|p| p.join("::")).collect();
    let wanted = [
        "crate::a::self",
        "crate::a::b::C",
        "crate::a::b::d",
        "crate::a::e",
        "crate::j::",
        "super::super::g::h",
    ];
    assert_eq!(read, wanted);
}

#[test]
fn comments_strings_and_characters_are_removed_from_code() {
    let text = "a // b\n\"crate::c\" r#\"d\"e\"# '\"' '\\'' f";
    let kept: Vec<_> =
        code(text).split_whitespace().map(String::from).collect();
    assert_eq!(kept, ["a", "\"\"", "f"]);
}

/// The name of a type that other files can use, if this line declares one.
fn public_type(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    words.next().filter(|word| word.starts_with("pub"))?;
    let kinds = ["struct", "enum", "trait", "type", "union"];
    let kind = words.next()?;
    let name = words.next().filter(|_| kinds.contains(&kind))?;
    let end = |c: char| !(c.is_alphanumeric() || c == '_');
    name.split(end).next().map(str::to_string)
}

#[test]
fn type_names_are_unique() {
    let mut of_name: BTreeMap<String, BTreeSet<Module>> = BTreeMap::new();
    for (module, text) in modules() {
        for name in code(&text).lines().filter_map(public_type) {
            of_name.entry(name).or_default().insert(module.clone());
        }
    }
    assert!(of_name.len() > 200, "{}", of_name.len());
    of_name.retain(|_, modules| modules.len() > 1);
    assert!(of_name.is_empty(), "{of_name:?}");
}
