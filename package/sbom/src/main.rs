//! Prints a software bill of materials, in CycloneDX's JSON: every crate that
//! a vminfod for illumos is made of.

mod tree;

use std::path::Path;
use std::process::ExitCode;

use tree::{Crate, Scope, tree};
use vminfod::json::{Json, Object};

fn main() -> ExitCode {
    match tree(Path::new(".")) {
        Ok((vminfod, crates)) => {
            println!("{}", bill(&vminfod, &crates));
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("sbom: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The bill of materials. It has neither date nor serial number: the same
/// sources give the same.
fn bill(vminfod: &Crate, crates: &[Crate]) -> Json {
    let mut metadata = Object::new();
    metadata.set("component", component(vminfod, "application"));
    let all = [vminfod].into_iter().chain(crates);
    let needs = all.map(|it| {
        let mut needs = Object::new();
        needs.set("ref", it.reference());
        let on = it.needs.iter().map(|n| Json::from(n.as_str()));
        needs.set("dependsOn", Json::from(on.collect::<Vec<_>>()));
        Json::from(needs)
    });
    let components = crates.iter().map(|it| component(it, "library"));
    let mut bill = Object::new();
    bill.set("bomFormat", "CycloneDX");
    bill.set("specVersion", "1.5");
    bill.set("version", 1.0);
    bill.set("metadata", metadata);
    bill.set("components", Json::from(components.collect::<Vec<_>>()));
    bill.set("dependencies", Json::from(needs.collect::<Vec<_>>()));
    Json::from(bill)
}

fn component(it: &Crate, kind: &str) -> Json {
    let object = |pairs: &[(&str, &str)]| {
        let mut object = Object::new();
        for (name, value) in pairs {
            object.set((*name).to_string(), (*value).to_string());
        }
        Json::from(object)
    };
    let mut component = Object::new();
    component.set("type", kind);
    component.set("bom-ref", it.reference());
    component.set("name", it.name.as_str());
    component.set("version", it.version.as_str());
    component.set(
        "scope",
        match it.scope {
            Scope::Run => "required",
            Scope::Build => "excluded",
        },
    );
    if let Some(checksum) = &it.checksum {
        let hash = object(&[("alg", "SHA-256"), ("content", checksum)]);
        component.set("hashes", Json::from(vec![hash]));
    }
    let licence = object(&[("expression", &it.license)]);
    component.set("licenses", Json::from(vec![licence]));
    component.set("purl", format!("pkg:cargo/{}", it.reference()));
    Json::from(component)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bill_names_every_crate_and_what_it_needs() {
        let project = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let (vminfod, crates) = tree(Path::new(project)).unwrap();
        let bill = Json::parse(&bill(&vminfod, &crates).to_string()).unwrap();
        assert_eq!(
            bill.get("bomFormat").and_then(Json::as_str),
            Some("CycloneDX")
        );
        let array = |name: &str| {
            let array = bill.get(name).and_then(Json::as_array);
            array.unwrap().to_vec()
        };
        let of = |json: &Json, name: &str| {
            json.get(name).and_then(Json::as_str).unwrap().to_string()
        };
        let references: Vec<_> =
            array("components").iter().map(|c| of(c, "bom-ref")).collect();
        assert_eq!(references.len(), crates.len());
        for name in ["parking_lot_core@", "cc@", "roxmltree@"] {
            assert!(references.iter().any(|r| r.starts_with(name)), "{name}");
        }
        // What is needed is there.
        let dependencies = array("dependencies");
        assert_eq!(dependencies.len(), crates.len() + 1);
        for dependency in dependencies {
            let on = dependency.get("dependsOn").and_then(Json::as_array);
            for needed in on.unwrap() {
                let needed = needed.as_str().unwrap().to_string();
                assert!(references.contains(&needed), "{needed}");
            }
        }
    }
}
