//! What was recorded of the reference: whole hosts with the VM objects that it
//! serves of them, and pairs of objects with the changes that it tells.

use std::path::{Path, PathBuf};

use vminfod::diff::{Change, diff};
use vminfod::json::Json;

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub fn read_json(path: &Path) -> Json {
    let text = std::fs::read_to_string(path).unwrap();
    Json::parse(&text).unwrap()
}

#[test]
fn all_recorded_changes_are_told() {
    let cases = read_json(&fixture("diff.json"));
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 220);
    for case in cases {
        let object = |name: &str| case.get(name).unwrap().as_object().unwrap();
        let changes = diff(object("from"), object("to"));
        let mut told: Vec<Json> = changes.iter().map(Change::to_json).collect();
        for wanted in case.get("changes").unwrap().as_array().unwrap() {
            let at = told.iter().position(|t| t == wanted);
            let at = at.unwrap_or_else(|| {
                panic!("{case}\nlacks {wanted}\nhas {told:?}")
            });
            told.remove(at);
        }
        assert!(told.is_empty(), "{case}\nhas besides {told:?}");
    }
}
