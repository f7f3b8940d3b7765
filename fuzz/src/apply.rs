//! Applies changes to an object, as a client does that follows the changes
//! instead of taking the new object: the counterpart of `vminfod::vm::diff`.

use vminfod::vm::diff::{Action, Change, PathPart};
use vminfod::vm::json::{Json, Object};

/// The arrays whose elements have an identity, and the member that is it.
const IDENTIFIED: [(&str, &str); 2] = [("disks", "path"), ("nics", "mac")];

/// The object that these changes lead to; arrays may have another order.
pub fn apply(from: &Object, changes: &[Change]) -> Result<Object, String> {
    let mut value = Json::from(from.clone());
    for change in changes {
        let member = match &change.path[..] {
            [Some(array), None, ..] => IDENTIFIED
                .iter()
                .find(|(name, _)| name == array)
                .map(|(_, member)| *member),
            _ => None,
        };
        value = change_at(&value, &change.path, change, member)?;
    }
    value.as_object().cloned().ok_or_else(|| "no object".to_string())
}

fn change_at(
    value: &Json,
    path: &[PathPart],
    change: &Change,
    member: Option<&str>,
) -> Result<Json, String> {
    match path {
        [] => match &change.action {
            Action::Changed(old, new) if old == value => Ok(new.clone()),
            other => Err(format!("{other:?} of {value}")),
        },
        [Some(name), rest @ ..] => {
            let object = value.as_object().ok_or("not an object")?;
            let mut object = object.clone();
            match (rest, &change.action, object.get(name).cloned()) {
                ([], Action::Added(new), None) => {
                    object.set(name.clone(), new.clone());
                }
                ([], Action::Removed(old), Some(now)) if *old == now => {
                    object.remove(name);
                }
                (_, _, Some(now)) => {
                    let next = change_at(&now, rest, change, member)?;
                    object.set(name.clone(), next);
                }
                (_, action, None) => {
                    return Err(format!("{action:?} of {name}, not there"));
                }
            }
            Ok(Json::from(object))
        }
        [None, rest @ ..] => {
            let mut elements = value.as_array().ok_or("not an array")?.to_vec();
            match (rest, &change.action) {
                ([], Action::Added(new)) => elements.push(new.clone()),
                ([], Action::Removed(old)) => elements.retain(|e| e != old),
                _ => {
                    let ident = change.ident.as_ref();
                    let member = member.ok_or("an element without identity")?;
                    let is_it = |e: &Json| e.get(member) == ident;
                    let at = elements.iter().position(is_it);
                    let at = at.ok_or("no such element")?;
                    elements[at] =
                        change_at(&elements[at], rest, change, None)?;
                }
            }
            Ok(Json::from(elements))
        }
    }
}

/// A text that is the same for two values that differ only in the order of
/// elements and members, or in repeated elements.
pub fn as_set(value: &Json) -> String {
    match value {
        Json::Array(elements) => {
            let mut texts: Vec<_> = elements.iter().map(as_set).collect();
            texts.sort();
            texts.dedup();
            format!("[{}]", texts.join(","))
        }
        Json::Object(object) => {
            let mut texts: Vec<_> = object
                .iter()
                .map(|(name, value)| format!("{name:?}:{}", as_set(value)))
                .collect();
            texts.sort();
            format!("{{{}}}", texts.join(","))
        }
        other => other.to_string(),
    }
}
