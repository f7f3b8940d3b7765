//! The crates that a vminfod for illumos is made of, by cargo-metadata(1) and
//! Cargo.lock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use vminfod::json::Json;

/// For which the tree is: that is what is shipped.
const TARGET: &str = "x86_64-unknown-illumos";

/// When a crate is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// In the program.
    Run,
    /// While it is built.
    Build,
}

/// One crate.
#[derive(Clone, Debug)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence, as SPDX has it.
    pub license: String,
    /// The SHA-256 of what was downloaded; none of our own.
    pub checksum: Option<String>,
    /// When it is there.
    pub scope: Scope,
    /// Whether vminfod itself names it.
    pub is_direct: bool,
    /// The crates that it needs, by [`Crate::reference`].
    pub needs: BTreeSet<String>,
}

impl Crate {
    /// What it is called by others.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}

/// The package vminfod, and all that it needs.
///
/// # Errors
/// A sentence, if cargo can't tell, or tells what is not understood.
pub fn tree(project: &Path) -> Result<(Crate, Vec<Crate>), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--format-version", "1"])
        .args(["--filter-platform", TARGET])
        .current_dir(project)
        .output()
        .map_err(|e| format!("cargo: {e}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let lock = std::fs::read_to_string(project.join("Cargo.lock"))
        .map_err(|e| format!("Cargo.lock: {e}"))?;
    let metadata = Json::parse(&String::from_utf8_lossy(&output.stdout))
        .map_err(|e| format!("cargo metadata: {e}"))?;
    of(&metadata, &checksums(&lock))
        .ok_or_else(|| "cargo metadata: not as it is known to be".to_string())
}

/// Each crate of a lock file, `NAME@VERSION`, with its checksum.
fn checksums(lock: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for package in lock.split("[[package]]") {
        let value = |name: &str| {
            let mut lines = package.lines();
            let line = lines.find_map(|line| line.strip_prefix(name))?;
            Some(line.strip_prefix(" = \"")?.trim_end_matches('"'))
        };
        if let (Some(name), Some(version), Some(checksum)) =
            (value("name"), value("version"), value("checksum"))
        {
            all.insert(format!("{name}@{version}"), checksum.to_string());
        }
    }
    all
}

fn of(
    metadata: &Json,
    checksums: &BTreeMap<String, String>,
) -> Option<(Crate, Vec<Crate>)> {
    let text = |json: &Json, name: &str| {
        json.get(name).and_then(Json::as_str).map(str::to_string)
    };
    let mut crates = BTreeMap::new();
    for package in metadata.get("packages")?.as_array()? {
        let mut found = Crate {
            name: text(package, "name")?,
            version: text(package, "version")?,
            license: text(package, "license")?,
            checksum: None,
            scope: Scope::Build,
            is_direct: false,
            needs: BTreeSet::new(),
        };
        found.checksum = checksums.get(&found.reference()).cloned();
        crates.insert(text(package, "id")?, found);
    }
    // What a compiler runs is in no program.
    let mut macros = BTreeSet::new();
    for package in metadata.get("packages")?.as_array()? {
        for target in package.get("targets")?.as_array()? {
            let kinds = target.get("kind")?.as_array()?;
            if kinds.iter().any(|kind| kind.as_str() == Some("proc-macro")) {
                macros.insert(text(package, "id")?);
            }
        }
    }
    // By crate, what it needs to run, and to be built.
    let mut needs: BTreeMap<String, Vec<(String, Scope)>> = BTreeMap::new();
    for node in metadata.get("resolve")?.get("nodes")?.as_array()? {
        let own = needs.entry(text(node, "id")?).or_default();
        for dependency in node.get("deps")?.as_array()? {
            let id = text(dependency, "pkg")?;
            for kind in dependency.get("dep_kinds")?.as_array()? {
                match kind.get("kind").and_then(Json::as_str) {
                    None if macros.contains(&id) => {
                        own.push((id.clone(), Scope::Build));
                    }
                    None => own.push((id.clone(), Scope::Run)),
                    Some("build") => own.push((id.clone(), Scope::Build)),
                    // What tests need is in nothing that is shipped.
                    Some(_) => {}
                }
            }
        }
    }
    let root = crates.iter().find(|(_, c)| c.name == "vminfod")?.0.clone();
    // In the program before it is only for building.
    let mut scopes: BTreeMap<String, Scope> = BTreeMap::new();
    let mut waiting = vec![(root.clone(), Scope::Run)];
    while let Some((id, scope)) = waiting.pop() {
        if scopes.get(&id).is_some_and(|known| *known <= scope) {
            continue;
        }
        scopes.insert(id.clone(), scope);
        for (needed, its) in needs.get(&id).into_iter().flatten() {
            waiting.push((needed.clone(), scope.max(*its)));
        }
    }
    let direct: Vec<_> = needs.get(&root)?.clone();
    let references: BTreeMap<_, _> =
        crates.iter().map(|(id, c)| (id.clone(), c.reference())).collect();
    let mut found = Vec::new();
    for (id, scope) in scopes {
        let mut it = crates.remove(&id)?;
        it.scope = scope;
        it.is_direct = direct.iter().any(|(direct, _)| *direct == id);
        let of_it = needs.get(&id).into_iter().flatten();
        it.needs = of_it
            .filter_map(|(needed, _)| references.get(needed).cloned())
            .collect();
        found.push(it);
    }
    found.sort_by_key(Crate::reference);
    let at = found.iter().position(|c| c.name == "vminfod")?;
    let vminfod = found.remove(at);
    Some((vminfod, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
    }

    fn of_project() -> Vec<Crate> {
        tree(project()).unwrap().1
    }

    #[test]
    fn the_tree_is_small_and_from_one_place() {
        let crates = of_project();
        let of_program = crates.iter().filter(|c| c.scope == Scope::Run);
        let count = of_program.count();
        assert!((20..40).contains(&count), "{count} crates in the program");
        for it in &crates {
            // Without one it would not be from the registry.
            let checksum = it.checksum.as_deref().unwrap_or_default();
            assert_eq!(checksum.len(), 64, "{}", it.reference());
        }
    }

    #[test]
    fn each_crate_has_its_reason() {
        let path = project().join("docs/DEPENDENCIES.md");
        let text = std::fs::read_to_string(path).unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
        let told: BTreeMap<_, _> = rows
            .filter_map(|row| {
                let mut cells = row.split(" | ");
                Some((cells.next()?, (cells.next()?, cells.next()?)))
            })
            .collect();
        let crates = of_project();
        for it in &crates {
            let (scope, licence) = told.get(&*it.name).unwrap_or_else(|| {
                panic!("docs/DEPENDENCIES.md does not name {}", it.name)
            });
            let by = match (it.is_direct, it.scope) {
                (true, Scope::Run) => "vminfod",
                (true, Scope::Build) => "build.rs",
                (false, _) => scope,
            };
            assert_eq!(*scope, by, "{}", it.name);
            assert_eq!(*licence, it.license, "{}", it.name);
            if !it.is_direct {
                let needs = format!("{}@{}", it.name, it.version);
                let owner = crates.iter().find(|c| c.name == *scope);
                let owner = owner.unwrap_or_else(|| panic!("{scope}?"));
                assert!(owner.needs.contains(&needs), "{scope}: {needs}");
            }
        }
        let known = |name: &&str| crates.iter().any(|c| c.name == **name);
        let begin = told.keys().filter(|name| !known(name));
        let gone: Vec<_> = begin.filter(|n| **n != "crate").collect();
        assert!(gone.is_empty(), "no longer needed: {gone:?}");
    }
}
