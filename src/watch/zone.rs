//! The zone status channel: sysevents about zones, which the kernel and
//! libzonecfg publish.

use std::time::{Duration, SystemTime};

use crate::config::{Paths, is_zonename};
use crate::event::{SourceEvent, VmChange, ZoneChange};
use crate::source::{EventSource, Sources};
use crate::vm::json::Json;
use crate::watch::sysevent::SyseventStream;

/// The stream of zone records.
#[must_use]
pub fn stream(paths: &Paths) -> SyseventStream {
    SyseventStream {
        source: EventSource::Zone,
        program: paths.sysevent(),
        args: &["-r", "-j", "-c", "com.sun:zones:status"],
        parse,
    }
}

/// No name of a state is longer than this many characters.
const STATE_MAX: usize = 64;

/// Returns the event that a record stands for. A record looks like this:
///
/// ```json
/// {"type":"event","class":"status","subclass":"change","data":{"zonename":
///  "0aa46416-…","newstate":"running","oldstate":"ready","zoneid":12}}
/// ```
///
/// Returns `None` for records of other classes, for records without a zone's
/// name (`ping`), and for the global zone.
#[must_use]
pub fn parse(record: &Json) -> Option<SourceEvent> {
    let text = |json: &Json, name| {
        json.get(name).and_then(Json::as_str).map(String::from)
    };
    let class = text(record, "class")?;
    let subclass = text(record, "subclass")?;
    let data = record.get("data")?;
    let zonename = text(data, "zonename").filter(|name| is_zonename(name))?;
    let state = |name| {
        let state = text(data, name).unwrap_or_default();
        state.chars().take(STATE_MAX).collect()
    };
    match (class.as_str(), subclass.as_str()) {
        ("status", "change") => {
            let zoneid = data.get("zoneid").and_then(Json::as_f64);
            #[allow(clippy::cast_possible_truncation)]
            let zoneid = zoneid.map_or(-1, |id| id as i32);
            Some(SourceEvent::Zone(ZoneChange {
                zonename: zonename.into(),
                oldstate: state("oldstate"),
                newstate: state("newstate"),
                zoneid,
                when: when(data),
            }))
        }
        // The kernel may publish this before it has counted the restart.
        ("init", "restart") => Some(SourceEvent::Vm(VmChange {
            source: EventSource::Zone,
            zonename: zonename.into(),
            sources: Sources::KSTAT,
            what: "init restart",
            is_early: true,
        })),
        _ => None,
    }
}

/// The time of a change, which the record has in nanoseconds since 1970.
fn when(data: &Json) -> Option<SystemTime> {
    let nanoseconds = data.get("when").and_then(Json::as_u64)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Option<String> {
        parse(&Json::parse(text).unwrap()).map(|event| event.to_string())
    }

    #[test]
    fn zone_records_become_events() {
        let change = r#"{"date":"2026-01-15T10:22:44.163Z","type":"event","vendor":"sun.com","publisher":"kernel","class":"status","subclass":"change","pid":0,"data":{"zonename":"z1","newstate":"running","oldstate":"ready","zoneid":12,"when":1768472564162999001},"channel":"com.sun:zones:status"}"#;
        let found = "zone z1 \"ready\" -> \"running\"";
        assert_eq!(event(change).as_deref(), Some(found));
        let Some(SourceEvent::Zone(change)) =
            parse(&Json::parse(change).unwrap())
        else {
            panic!();
        };
        let when = change.when.unwrap().duration_since(SystemTime::UNIX_EPOCH);
        assert_eq!(when.unwrap().as_millis(), 1_768_472_564_162);
        let restart = r#"{"type":"event","class":"init","subclass":"restart","data":{"restarts":1,"zonename":"z1","zoneid":12,"when":1768473000499123456}}"#;
        assert_eq!(event(restart).as_deref(), Some("zone z1 init restart"));
    }

    #[test]
    fn irrelevant_zone_records_are_ignored() {
        for text in [
            r#"{"class":"status","subclass":"ping","pid":7}"#,
            r#"{"class":"status","subclass":"change","data":{"zonename":7}}"#,
            r#"{"class":"status","subclass":"change","data":{"zonename":"global"}}"#,
            r#"{"class":"status","subclass":"change","data":{"zonename":"../x"}}"#,
            r#"{"class":"other","subclass":"change","data":{"zonename":"z"}}"#,
            "{}",
            "[]",
        ] {
            assert_eq!(event(text), None, "{text}");
        }
    }
}
