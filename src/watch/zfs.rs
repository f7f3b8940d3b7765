//! ZFS history: the operations on datasets.

use crate::config::Paths;
use crate::event::{DatasetChange, SourceEvent};
use crate::source::EventSource;
use crate::vm::json::Json;
use crate::watch::sysevent::{SyseventStream, recover_text};

/// The stream of history records.
#[must_use]
pub fn stream(paths: &Paths) -> SyseventStream {
    SyseventStream {
        source: EventSource::Zfs,
        program: paths.sysevent(),
        args: &["-r", "-j", "EC_zfs", "ESC_ZFS_history_event"],
        parse,
    }
}

/// The operations on a pool that concern every dataset in it.
const OF_ALL_DATASETS: [&str; 3] = ["import", "open", "checkpoint rewind"];

/// Returns the event that a record stands for. A record looks like this:
///
/// ```json
/// {"type":"event","class":"EC_zfs","data":{"pool_name":"zones",
///  "history_dsname":"zones/0aa46416-…","history_internal_name":"set",
///  "history_internal_str":"quota=10737418240"}}
/// ```
///
/// Records about a whole pool name no dataset. Most of them (scrubs, the pool's
/// own properties) are of no interest; but those of [`OF_ALL_DATASETS`] make
/// datasets appear or replace them.
#[must_use]
pub fn parse(record: &Json) -> Option<SourceEvent> {
    let data = record.get("data")?;
    let text = |name| data.get(name).and_then(Json::as_str).map(recover_text);
    // A record without an operation's name is an unknown operation: something
    // has changed.
    let operation = text("history_internal_name").unwrap_or_default();
    let pool = text("pool_name")
        .filter(|_| OF_ALL_DATASETS.contains(&operation.as_str()));
    let is_name = |name: &String| (1..=NAME_MAX).contains(&name.len());
    let dataset = text("history_dsname").filter(is_name);
    Some(SourceEvent::Dataset(DatasetChange {
        dataset: dataset.or(pool)?,
        operation: shortened(&operation),
        detail: shortened(&text("history_internal_str").unwrap_or_default()),
    }))
}

/// No dataset or snapshot has a longer name, hidden components included
/// (ZFS_MAX_DATASET_NAME_LEN is 256).
const NAME_MAX: usize = 1024;

/// The most characters of a record's text that are kept: enough for the longest
/// name of a dataset, and some more for people to read.
const DETAIL_MAX: usize = 512;

fn shortened(text: &str) -> String {
    text.chars().take(DETAIL_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dataset_and_pool_records_become_events() {
        let event = |text| {
            parse(&Json::parse(text).unwrap()).map(|event| event.to_string())
        };
        let set = r#"{"type":"event","class":"EC_zfs","subclass":"ESC_ZFS_history_event","pid":0,"data":{"pool_name":"zones","pool_guid":13640178914720412019,"history_dsname":"zones/a","history_internal_str":"quota=10737418240","history_internal_name":"set","history_dsid":1422}}"#;
        let found = "zfs set zones/a quota=10737418240";
        assert_eq!(event(set).as_deref(), Some(found));
        let scrub = r#"{"class":"EC_zfs","data":{"pool_name":"zones","history_internal_str":"func=1","history_internal_name":"scan setup"}}"#;
        assert_eq!(event(scrub), None);
        let import = r#"{"class":"EC_zfs","data":{"pool_name":"tank","history_internal_str":"","history_internal_name":"import"}}"#;
        assert_eq!(event(import).as_deref(), Some("zfs import tank "));
        let hold = "{\"data\":{\"history_dsname\":\"zones/a@s\",\
                    \"history_internal_name\":\"hold\",\
                    \"history_internal_str\":\"tag=\\u00c3\\u00a9\"}}";
        assert_eq!(event(hold).as_deref(), Some("zfs hold zones/a@s tag=é"));
    }
}
