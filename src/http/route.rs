//! Turns the method and target of a request into what it asks for. This is
//! pure.

use std::time::Duration;

use vminfod_client::EventKind;

use super::query::{self, Parameter, QueryError, WantedValue, percent_decode};
use super::subscription_filter::SubscriptionFilter;
use crate::cache::Since;
use crate::settings::HttpLimits;
use crate::vm::fields::Fields;
use crate::vm::filter::{CONDITIONS_MAX, Condition, ConditionError, Filter};
use crate::vm::path::{Path, split_list, split_once};

/// The shortest time between two heartbeats that a client can ask for.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);

/// What a request asks for.
#[derive(Clone, Debug)]
pub enum Route {
    /// `/ping`
    Ping,
    /// `/status`
    Status {
        /// Whether the long form is asked for.
        full: bool,
    },
    /// `/metrics`
    Metrics,
    /// `/vms`
    Vms(OfVms),
    /// `/vms/NAME`
    Vm(String, OfVm),
    /// `/events`
    Events(OfEvents),
    /// Any other path.
    Unsupported,
    /// Any method but GET and HEAD.
    BadMethod,
    /// A query that is not valid, and why.
    BadQuery(QueryError),
}

impl Route {
    /// All names in metrics.
    pub const NAMES: [&str; 9] = [
        "ping", "status", "metrics", "vms-sync", "vms", "vm-wait", "vm-sync",
        "vm", "events",
    ];

    /// The name in metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Status { .. } => "status",
            Self::Metrics => "metrics",
            Self::Vms(of) if of.sync => "vms-sync",
            Self::Vms(_) => "vms",
            Self::Vm(_, of) if of.wait.is_some() => "vm-wait",
            Self::Vm(_, of) if of.sync => "vm-sync",
            Self::Vm(..) => "vm",
            Self::Events(_) => "events",
            Self::Unsupported | Self::BadMethod | Self::BadQuery(_) => "other",
        }
    }
}

/// What is asked of all VMs.
#[derive(Clone, Debug, Default)]
pub struct OfVms {
    /// Which fields of each VM are wanted; `None` for all.
    pub fields: Option<Fields>,
    /// Which VMs are wanted.
    pub filter: Filter,
    /// Whether to load them from the system first.
    pub sync: bool,
    /// How long the load may take; `None` for the default.
    pub timeout: Option<Duration>,
}

/// What is asked of one VM.
#[derive(Clone, Debug, Default)]
pub struct OfVm {
    /// Which fields are wanted; `None` for all.
    pub fields: Option<Fields>,
    /// Whether to load it from the system first.
    pub sync: bool,
    /// What to wait for, if for anything.
    pub wait: Option<Wait>,
    /// How long the load and the wait together may take; `None` for the
    /// default.
    pub timeout: Option<Duration>,
}

/// What a request waits for.
#[derive(Clone, Debug)]
pub enum Wait {
    /// Until there is no such VM.
    Gone,
    /// Until all of these conditions hold for the VM.
    Holds(Vec<Condition>),
}

/// What is asked of /events.
#[derive(Clone, Debug, Default)]
pub struct OfEvents {
    /// Where the client left off.
    pub since: Option<Since>,
    /// Which events it wants, and in what form.
    pub wanted: SubscriptionFilter,
    /// How its first line contains the VMs.
    pub snapshot: SnapshotForm,
}

/// How the first line of /events contains all VMs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SnapshotForm {
    /// As a JSON array inside a string, which is what today's clients expect.
    #[default]
    Text,
    /// As a JSON array.
    Array,
    /// Not at all.
    None,
}

/// Decides what a request asks for.
#[must_use]
pub fn route(method: &str, target: &str, limits: &HttpLimits) -> Route {
    if method != "GET" && method != "HEAD" {
        return Route::BadMethod;
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    // As in today's daemon, one slash at the end changes nothing.
    let path = path.strip_suffix('/').unwrap_or(path);
    let parameters = || query::parse(query).collect::<Result<Vec<_>, _>>();
    let read = match path {
        // Today's daemon ignores other parameters, and malformed ones.
        "/ping" => Ok(Route::Ping),
        "/metrics" => Ok(Route::Metrics),
        "/status" => {
            let mut full = query::parse(query).flatten();
            let full = full.any(|p| p.name == "full" && p.loose_flag());
            Ok(Route::Status { full })
        }
        "/vms" => parameters()
            .and_then(|parameters| of_vms(parameters, limits))
            .map(Route::Vms),
        "/events" => parameters()
            .and_then(|parameters| of_events(parameters, limits))
            .map(Route::Events),
        _ => match path.strip_prefix("/vms/") {
            Some(name) if !name.is_empty() && !name.contains('/') => {
                let decoded = percent_decode(name);
                let bad = || QueryError::NotAName(name.to_string());
                decoded.ok_or_else(bad).and_then(|name| {
                    let of = of_vm(parameters()?, limits)?;
                    Ok(Route::Vm(name, of))
                })
            }
            _ => Ok(Route::Unsupported),
        },
    };
    read.unwrap_or_else(Route::BadQuery)
}

fn of_vms(
    parameters: Vec<Parameter>,
    limits: &HttpLimits,
) -> Result<OfVms, QueryError> {
    let mut of = OfVms::default();
    for parameter in parameters {
        match parameter.name.as_str() {
            "fields" => add_fields(&mut of.fields, parameter)?,
            "sync" => of.sync = parameter.flag()?,
            "timeout" => of.timeout = Some(timeout(&parameter, limits)?),
            name => {
                let added = of.filter.add(name, &parameter.value);
                added.map_err(|e| QueryError::Condition(name.into(), e))?;
            }
        }
    }
    match of.timeout {
        Some(_) if !of.sync => Err(QueryError::Without("timeout", "sync=1")),
        _ => Ok(of),
    }
}

/// The parameters of /vms/NAME.
const OF_VM: [&str; 4] = ["fields", "sync", "timeout", "wait"];

/// The parameters of /events.
const OF_EVENTS: [&str; 8] = [
    "epoch",
    "fields",
    "heartbeat",
    "paths",
    "since",
    "snapshot",
    "types",
    "uuid",
];

fn of_vm(
    parameters: Vec<Parameter>,
    limits: &HttpLimits,
) -> Result<OfVm, QueryError> {
    let mut of = OfVm::default();
    for parameter in parameters {
        match parameter.name.as_str() {
            "fields" => add_fields(&mut of.fields, parameter)?,
            "sync" => of.sync = parameter.flag()?,
            "timeout" => of.timeout = Some(timeout(&parameter, limits)?),
            "wait" => add_wait(&mut of.wait, &parameter)?,
            _ => return Err(parameter.unknown_name(&OF_VM)),
        }
    }
    match of.timeout {
        Some(_) if !of.sync && of.wait.is_none() => {
            Err(QueryError::Without("timeout", "sync=1 or wait="))
        }
        _ => Ok(of),
    }
}

fn add_wait(
    wait: &mut Option<Wait>,
    wanted: &Parameter,
) -> Result<(), QueryError> {
    let contrary = || wanted.bad_value(WantedValue::OneKindOfWait);
    if wanted.value == "gone" {
        if matches!(wait, Some(Wait::Holds(_))) {
            return Err(contrary());
        }
        *wait = Some(Wait::Gone);
        return Ok(());
    }
    let Some((property, value)) = split_once(&wanted.value, '=') else {
        return Err(wanted.bad_value(WantedValue::WaitWords));
    };
    let condition = Condition::new(property, value)
        .map_err(|e| wanted.bad_value(WantedValue::Condition(e)))?;
    match wait {
        None => *wait = Some(Wait::Holds(vec![condition])),
        Some(Wait::Holds(conditions)) if conditions.len() < CONDITIONS_MAX => {
            conditions.push(condition);
        }
        Some(Wait::Holds(_)) => {
            let error = ConditionError::TooMany;
            return Err(wanted.bad_value(WantedValue::Condition(error)));
        }
        Some(Wait::Gone) => return Err(contrary()),
    }
    Ok(())
}

fn of_events(
    parameters: Vec<Parameter>,
    limits: &HttpLimits,
) -> Result<OfEvents, QueryError> {
    let mut of = OfEvents::default();
    let (mut seq, mut epoch) = (None, None);
    for parameter in parameters {
        let wanted = &mut of.wanted;
        match parameter.name.as_str() {
            "since" => seq = Some(parameter.number()?),
            "epoch" => epoch = Some(parameter.non_empty()?),
            "uuid" => wanted.vms.push(parameter.non_empty()?),
            "types" => {
                let all = EventKind::ALL.map(|kind| (kind.name(), kind));
                for name in parameter.value.split(',') {
                    let value = name.to_string();
                    let one = Parameter { value, ..parameter.clone() };
                    wanted.kinds.push(one.one_of(&all)?);
                }
            }
            "paths" => {
                for text in split_list(&parameter.value) {
                    let path = Path::parse(text)?;
                    if path.has_place() {
                        let value = text.to_string();
                        let one = Parameter { value, ..parameter };
                        return Err(one.bad_value(WantedValue::PathOfChanges));
                    }
                    wanted.paths.push(path);
                }
            }
            "snapshot" => {
                of.snapshot = parameter.one_of(&[
                    ("none", SnapshotForm::None),
                    ("array", SnapshotForm::Array),
                ])?;
            }
            "heartbeat" => {
                let most = limits.timeout_max;
                let every = parameter.seconds(HEARTBEAT_MIN, most)?;
                wanted.heartbeat = Some(every);
            }
            "fields" => add_fields(&mut wanted.fields, parameter)?,
            _ => return Err(parameter.unknown_name(&OF_EVENTS)),
        }
    }
    of.wanted.vms.sort();
    of.wanted.vms.dedup();
    of.since = match (seq, epoch) {
        (Some(seq), Some(epoch)) => Some(Since { seq, epoch }),
        (None, None) => None,
        (Some(_), None) => return Err(QueryError::Without("since", "epoch=")),
        (None, Some(_)) => return Err(QueryError::Without("epoch", "since=")),
    };
    Ok(of)
}

fn add_fields(
    fields: &mut Option<Fields>,
    wanted: Parameter,
) -> Result<(), QueryError> {
    Ok(fields.get_or_insert_default().add(&wanted.non_empty()?)?)
}

fn timeout(
    parameter: &Parameter,
    limits: &HttpLimits,
) -> Result<Duration, QueryError> {
    parameter.seconds(Duration::ZERO, limits.timeout_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(target: &str) -> Route {
        route("GET", target, &HttpLimits::default())
    }

    #[test]
    fn every_path_leads_to_its_route() {
        for (target, wanted) in [
            ("/ping", "ping"),
            ("/status", "status"),
            ("/status?full=true", "status"),
            ("/metrics", "metrics"),
            ("/vms", "vms"),
            ("/vms?", "vms"),
            ("/vms?sync=1&timeout=5", "vms-sync"),
            ("/vms?sync=0", "vms"),
            ("/vms/abc", "vm"),
            ("/vms/abc?sync=1", "vm-sync"),
            ("/vms/abc?wait=gone", "vm-wait"),
            ("/vms/abc?wait=gone&wait=gone&sync=1&timeout=0", "vm-wait"),
            ("/events", "events"),
            ("/", "other"),
            ("/ping/", "ping"),
            ("/ping?full=true&%zz", "ping"),
            ("/metrics?name=x", "metrics"),
            ("/vms/", "vms"),
            ("/vms/?sync=1", "vms-sync"),
            ("/vms/abc/", "vm"),
            ("/vms//", "other"),
            ("/ping//", "other"),
            ("/vms/a/b", "other"),
            ("/pings", "other"),
            ("*", "other"),
            ("http://x/ping", "other"),
        ] {
            let head = route("HEAD", target, &HttpLimits::default());
            assert!(wanted == "other" || Route::NAMES.contains(&wanted));
            for route in [get(target), head] {
                assert_eq!(route.name(), wanted, "{target}");
                assert!(!matches!(route, Route::BadQuery(_)), "{route:?}");
            }
            let post = route("POST", target, &HttpLimits::default());
            assert!(matches!(post, Route::BadMethod));
        }
        for (target, name) in [
            ("/vms/abc", "abc"),
            ("/vms/a%2Db%C3%A9", "a-bé"),
            ("/vms/a%252D", "a%2D"),
            ("/vms/a%2F/", "a/"),
            ("/vms/a+b", "a+b"),
        ] {
            let route = get(target);
            assert!(matches!(route, Route::Vm(n, _) if n == name), "{target}");
        }
        for (query, wanted) in [
            ("", false),
            ("?full", true),
            ("?full=", false),
            ("?full=0", false),
            ("?full=false", false),
            ("?full=1", true),
            ("?full=true", true),
            ("?full=no", true),
            ("?x=%zz&full=true", true),
            ("?other", false),
        ] {
            let route = get(&format!("/status{query}"));
            let is_so =
                matches!(route, Route::Status { full } if full == wanted);
            assert!(is_so, "{query}");
        }
    }

    #[test]
    fn a_bad_query_names_the_bad_part() {
        for (target, named) in [
            ("/vms?bogus=1", "bogus"),
            ("/vms?state!=running", "state!"),
            ("/vms?alias=~(", "("),
            ("/vms?timeout=5", "timeout"),
            ("/vms?sync=maybe", "sync=maybe"),
            ("/vms?sync=1&timeout=-1", "timeout=-1"),
            ("/vms?sync=1&timeout=99999999", "timeout"),
            ("/vms?fields=", "fields"),
            ("/vms?fields=state,bogus", "bogus"),
            ("/vms?wait=gone", "wait"),
            ("/vms/%zz", "%zz"),
            ("/vms/%ff", "%ff"),
            ("/vms/%f", "%f"),
            ("/vms/a?state=running", "state"),
            ("/vms/a?wait=bogus=1", "bogus"),
            ("/vms/a?wait=going", "going"),
            ("/vms/a?wait=", "wait"),
            ("/vms/a?wait=gone&wait=state=x", "state=x"),
            ("/vms/a?wait=state=x&wait=gone", "gone"),
            ("/vms/a?wait=state=x&wait=y", "wait=y"),
            ("/events?since=5", "since"),
            ("/events?epoch=x", "epoch"),
            ("/events?since=x&epoch=x", "since=x"),
            ("/events?types=create,boot", "types=boot"),
            ("/events?paths=bogus", "bogus"),
            ("/events?paths=nics.0.ip", "nics.0.ip"),
            ("/events?snapshot=text", "snapshot=text"),
            ("/events?heartbeat=0", "heartbeat=0"),
            ("/events?uuid=", "uuid"),
            ("/events?state=running", "state"),
            ("/events?fields=x", "x"),
        ] {
            match get(target) {
                Route::BadQuery(error) => {
                    let error = error.to_string();
                    assert!(error.contains(named), "{target}: {error}");
                }
                other => panic!("{target}: {other:?}"),
            }
        }
    }

    #[test]
    fn all_parameters_of_events_are_parsed() {
        let target = "/events?uuid=b&uuid=a&uuid=a&types=create,delete\
            &types=modify&paths=state,nics.*.ip&snapshot=array&heartbeat=1.5\
            &fields=uuid&since=7&epoch=e";
        let Route::Events(of) = get(target) else { panic!() };
        assert_eq!(of.wanted.vms, ["a", "b"]);
        assert_eq!(of.wanted.kinds.len(), 3);
        assert_eq!(of.wanted.paths.len(), 2);
        assert_eq!(of.snapshot, SnapshotForm::Array);
        assert_eq!(of.wanted.heartbeat, Some(Duration::from_millis(1500)));
        assert_eq!(of.since, Some(Since { seq: 7, epoch: "e".to_string() }));
    }
}
