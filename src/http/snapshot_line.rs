//! The first line of a stream of events: `ready`, with a snapshot of all VMs,
//! or with the part of it that the client has asked for.

use std::sync::{Arc, Weak};
use std::time::SystemTime;

use parking_lot::Mutex;

use super::route::SnapshotForm;
use super::subscription_filter::SubscriptionFilter;
use crate::cache::{Reset, Snapshot};
use crate::hub::{Hub, Text, Vm};
use crate::vm::json::write_string;
use crate::vm::values::date_text;

/// The text of the last snapshot. Streams that begin together share it.
#[derive(Debug, Default)]
pub struct Snapshots {
    last: Mutex<Option<(u64, Weak<Text>)>>,
}

impl Snapshots {
    /// All VMs as a JSON array, escaped as the content of a JSON string.
    fn of(&self, snapshot: &Snapshot, hub: &Hub) -> Arc<Text> {
        // The lock is held while the text is made, so that streams that begin
        // together wait for one text.
        let mut last = self.last.lock();
        if let Some((seq, text)) = &*last
            && *seq == snapshot.seq
            && let Some(text) = text.upgrade()
        {
            return text;
        }
        let text = hub.text(escaped_array(&snapshot.vms));
        *last = Some((snapshot.seq, Arc::downgrade(&text)));
        text
    }
}

/// What the first line is made of.
pub struct ReadyLine<'a> {
    /// The UUID of the subscription.
    pub uuid: Arc<str>,
    /// The epoch of this run of the daemon.
    pub epoch: Arc<str>,
    /// Which events and VMs the client wants.
    pub wanted: &'a SubscriptionFilter,
    /// In what form it wants the snapshot.
    pub form: SnapshotForm,
}

/// The line: what comes before the snapshot, the snapshot, and what comes
/// after it.
pub type LinePieces = [Arc<Text>; 3];

impl ReadyLine<'_> {
    /// The line of a stream that begins with this snapshot. `reset` says why a
    /// client that wanted to resume can't.
    pub fn line(
        &self,
        snapshot: &Snapshot,
        reset: Option<Reset>,
        hub: &Hub,
        snapshots: &Snapshots,
    ) -> LinePieces {
        let mut before = self.head();
        let mut after = Vec::new();
        let is_whole =
            self.wanted.vms.is_empty() && self.wanted.fields.is_none();
        let vms = match (self.form, is_whole) {
            (SnapshotForm::None, _) => hub.text(Vec::new()),
            (SnapshotForm::Text, true) => {
                before.extend_from_slice(b",\"vms\":\"");
                after.push(b'"');
                snapshots.of(snapshot, hub)
            }
            (form, _) => {
                before.extend_from_slice(b",\"vms\":");
                let vms = self.part_of(snapshot);
                hub.text(match form {
                    SnapshotForm::Array => vms,
                    _ => {
                        let mut text = vec![b'"'];
                        escape_json(&vms, &mut text);
                        text.push(b'"');
                        text
                    }
                })
            }
        };
        if let Some(reset) = reset {
            after.extend_from_slice(b",\"reset\":");
            write_string(reset.reason(), &mut after);
        }
        self.end(snapshot.seq, &mut after);
        [hub.text(before), vms, hub.text(after)]
    }

    /// The line of a stream that resumes after event `seq`.
    pub fn resumed(&self, seq: u64, hub: &Hub) -> LinePieces {
        let mut after = b",\"resumed\":true".to_vec();
        self.end(seq, &mut after);
        [hub.text(self.head()), hub.text(Vec::new()), hub.text(after)]
    }

    fn head(&self) -> Vec<u8> {
        let mut head = b"{\"type\":\"ready\",\"date\":".to_vec();
        write_string(&date_text(SystemTime::now()), &mut head);
        head.extend_from_slice(b",\"uuid\":");
        write_string(&self.uuid, &mut head);
        head
    }

    fn end(&self, seq: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(format!(",\"seq\":{seq},\"epoch\":").as_bytes());
        write_string(&self.epoch, out);
        out.extend_from_slice(b"}\n");
    }

    /// The JSON array of the VMs that are wanted, each with its wanted fields.
    fn part_of(&self, snapshot: &Snapshot) -> Vec<u8> {
        let mut out = vec![b'['];
        let vms = snapshot.vms.iter();
        for vm in vms.filter(|vm| self.wanted.has_vm(vm)) {
            if out.len() > 1 {
                out.push(b',');
            }
            match &self.wanted.fields {
                None => out.extend_from_slice(vm.json()),
                Some(fields) => fields.of(vm.object()).write(&mut out),
            }
        }
        out.push(b']');
        out
    }
}

/// A first line as it is sent: as a chunk, or unchanged.
pub fn framed(parts: LinePieces, hub: &Hub, chunked: bool) -> Vec<Arc<Text>> {
    let [before, vms, after] = parts;
    if !chunked {
        return vec![before, vms, after];
    }
    let size: usize =
        [&before, &vms, &after].map(|part| part.bytes().len()).iter().sum();
    let mut head = format!("{size:x}\r\n").into_bytes();
    head.extend_from_slice(before.bytes());
    let mut end = after.bytes().to_vec();
    end.extend_from_slice(b"\r\n");
    vec![hub.text(head), vms, hub.text(end)]
}

fn escaped_array(vms: &[Vm]) -> Vec<u8> {
    let size: usize = vms.iter().map(|vm| vm.json().len()).sum();
    let mut out = Vec::with_capacity(size + size / 4 + 2);
    out.push(b'[');
    for (i, vm) in vms.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        escape_json(vm.json(), &mut out);
    }
    out.push(b']');
    out
}

/// Appends JSON as the content of a JSON string. JSON that we wrote has no
/// control characters, so that only `"` and `\` have to be escaped.
fn escape_json(json: &[u8], out: &mut Vec<u8>) {
    let mut rest = json;
    while let Some(at) = rest.iter().position(|b| matches!(b, b'"' | b'\\')) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&[b'\\', rest[at]]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::json::Json;

    #[test]
    fn escaped_json_parses_back_to_the_same_value() {
        let value = Json::parse(r#"{"a":"q\"\\\n\u0001é"}"#).unwrap();
        let mut out = b"\"".to_vec();
        escape_json(&value.to_bytes(), &mut out);
        out.push(b'"');
        let text = Json::parse(std::str::from_utf8(&out).unwrap()).unwrap();
        assert_eq!(Json::parse(text.as_str().unwrap()).unwrap(), value);
    }
}
