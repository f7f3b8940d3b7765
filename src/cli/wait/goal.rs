//! What a wait is for: conditions that a VM has to meet, or its end.

use std::time::Duration;

use vminfod_client::Event;

use crate::cli::Failure;
use crate::cli::terminal::printable;
use crate::vm::filter::{CONDITIONS_MAX, Condition, Search};
use crate::vm::json::Json;
use crate::vm::path::split_once;

/// How long the regular expressions of the goal may search one VM.
const SEARCH_TIME: Duration = Duration::from_millis(250);

/// The most characters that are printed of a property's value.
const SHOWN_MAX: usize = 200;

/// What is waited for.
pub enum Goal {
    /// There is no such VM.
    Gone,
    /// All these conditions hold. Each has its operand, `PROP=VALUE`, with it.
    Holds(Vec<(String, Condition)>),
}

/// The goal of a command line: `--gone`, or operands `PROP=VALUE`.
pub fn goal(operands: &[String], is_gone: bool) -> Result<Goal, Failure> {
    let wrong = |what: &str| Failure::Usage(format!("wait: {what}"));
    match (operands, is_gone) {
        ([], true) => return Ok(Goal::Gone),
        ([], false) => return Err(wrong("no PROP=VALUE or --gone given")),
        (_, true) => return Err(wrong("--gone takes no PROP=VALUE")),
        (wanted, _) if wanted.len() > CONDITIONS_MAX => {
            return Err(wrong(&format!(
                "too many conditions (at most {CONDITIONS_MAX})"
            )));
        }
        _ => {}
    }
    let conditions = operands.iter().map(|operand| {
        let (property, value) = split_once(operand, '=')
            .ok_or_else(|| wrong(&format!("{operand}: expected PROP=VALUE")))?;
        let condition = Condition::new(property, value);
        let condition = condition.map_err(|e| wrong(&e.to_string()))?;
        Ok((operand.clone(), condition))
    });
    Ok(Goal::Holds(conditions.collect::<Result<_, Failure>>()?))
}

impl Goal {
    /// Whether the VM meets the goal; `vm` is `None` if there is no VM.
    ///
    /// # Errors
    /// If that can't be known, because a regular expression takes too long or a
    /// text is too long to be searched whole.
    pub fn is_met(&self, vm: Option<&Json>) -> Result<bool, &'static str> {
        match (self, vm.and_then(Json::as_object)) {
            (Self::Gone, vm) => Ok(vm.is_none()),
            (Self::Holds(_), None) => Ok(false),
            (Self::Holds(conditions), Some(vm)) => {
                let search = Search::new(SEARCH_TIME);
                let holds = |(_, c): &(_, Condition)| c.holds(vm, &search);
                let all = conditions.iter().all(holds);
                search.failure().map_or(Ok(all), Err)
            }
        }
    }

    /// How a VM that exists differs from the goal.
    pub fn difference(&self, vm: &Json) -> String {
        match self {
            Self::Gone => "the VM still exists".to_string(),
            Self::Holds(wanted) => unmet(vm, wanted),
        }
    }

    /// Whether an event may have changed what the goal depends on.
    pub fn may_concern(&self, event: &Event) -> bool {
        let Self::Holds(conditions) = self else { return true };
        let Event::Modify { changes, .. } = event else { return true };
        changes.iter().any(|change| {
            let at = change.path.iter().map(|part| part.as_deref());
            let at: Vec<_> = at.map(Json::from).collect();
            conditions.iter().any(|(_, c)| c.may_be_changed_at(&at))
        })
    }
}

/// The conditions that a VM does not meet, each with the value it has instead.
fn unmet(vm: &Json, wanted: &[(String, Condition)]) -> String {
    let Some(vm) = vm.as_object() else { return String::new() };
    let search = Search::new(SEARCH_TIME);
    let unmet = wanted.iter().filter(|(_, c)| !c.holds(vm, &search));
    let texts = unmet.map(|(words, condition)| {
        let property = split_once(words, '=').map_or("", |(p, _)| p);
        match &condition.texts(vm)[..] {
            [] => format!("the VM has no {property} (waited for {words})"),
            texts => {
                let texts: String =
                    texts.join(", ").chars().take(SHOWN_MAX).collect();
                format!("{property} is {texts} (waited for {words})")
            }
        }
    });
    let texts = texts.collect::<Vec<_>>().join("; ");
    match texts.is_empty() {
        true => "the conditions seem to hold, but are unconfirmed".to_string(),
        false => printable(&texts),
    }
}
