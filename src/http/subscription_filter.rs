//! Which events a subscriber wants, and how an event is rendered for it.

use std::sync::Arc;
use std::time::Duration;

use vminfod_client::EventKind;

use crate::hub::{EventLine, LineDraft, Vm};
use crate::vm::fields::Fields;
use crate::vm::json::{Json, Key, Object};
use crate::vm::path::Path;

/// What a subscriber wants. An empty list, or no `fields`, means everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionFilter {
    /// Events of these VMs, by uuid or zonename.
    pub vms: Vec<String>,
    /// Events of these types.
    pub kinds: Vec<EventKind>,
    /// Of `modify` events, only those with a change at or below one of these
    /// paths.
    pub paths: Vec<Path>,
    /// Which fields of `vm` are wanted.
    pub fields: Option<Fields>,
    /// A heartbeat line is sent when nothing else was sent for this long.
    pub heartbeat: Option<Duration>,
}

impl SubscriptionFilter {
    /// Whether events of a VM are wanted.
    #[must_use]
    pub fn has_vm(&self, vm: &Vm) -> bool {
        if self.vms.is_empty() {
            return true;
        }
        let own = ["uuid", "zonename"].map(|name| vm.object().get_str(name));
        let mut own = own.into_iter().flatten();
        own.any(|own| self.vms.iter().any(|name| name == own))
    }
}

/// An event that goes to many subscribers. It is parsed at most once, and
/// rendered once for each set of fields.
pub struct SharedEvent<'a> {
    line: &'a Arc<EventLine>,
    /// The parsed event, once a filter needs its content.
    event: Option<Result<Json, serde_json::Error>>,
    /// The event as rendered for subscribers that want only these fields.
    reworded: Vec<(Fields, Arc<EventLine>)>,
}

impl<'a> SharedEvent<'a> {
    /// An event that no subscriber has got yet.
    #[must_use]
    pub fn new(line: &'a Arc<EventLine>) -> Self {
        Self { line, event: None, reworded: Vec::new() }
    }

    /// The event as a subscriber with this filter gets it; `None` if it does
    /// not want the event.
    pub fn to(
        &mut self,
        wanted: &SubscriptionFilter,
    ) -> Option<Arc<EventLine>> {
        let about = &self.line.about;
        let is_vm =
            |vm: &String| **vm == *about.uuid || **vm == *about.zonename;
        if !(wanted.vms.is_empty() || wanted.vms.iter().any(is_vm))
            || !(wanted.kinds.is_empty() || wanted.kinds.contains(&about.kind))
        {
            return None;
        }
        // A VM that is created or deleted has changed at every path.
        if about.kind == EventKind::Modify
            && !wanted.paths.is_empty()
            && !self.may_have_change_at(&wanted.paths)
        {
            return None;
        }
        match &wanted.fields {
            Some(fields) if about.kind != EventKind::Delete => {
                Some(self.in_words_of(fields))
            }
            _ => Some(Arc::clone(self.line)),
        }
    }

    /// The parsed event, or why it can't be parsed.
    fn event(&mut self) -> Result<&Json, &serde_json::Error> {
        let line = self.line;
        let event = self.event.get_or_insert_with(|| {
            // We wrote the line, so it should always parse.
            let event = serde_json::from_slice(line.text());
            event.inspect_err(|e| {
                log::error!(
                    "event {} can't be parsed, so no filter can be applied to \
                     it: {e}",
                    line.seq
                );
            })
        });
        event.as_ref()
    }

    /// Whether there is a change at one of these paths. An event that can't be
    /// parsed may have one.
    fn may_have_change_at(&mut self, paths: &[Path]) -> bool {
        let Ok(event) = self.event() else { return true };
        let changes = event.get("changes").and_then(Json::as_array);
        changes.unwrap_or_default().iter().any(|change| {
            let at = change.get("path").and_then(Json::as_array);
            let at = at.unwrap_or_default();
            paths.iter().any(|path| path.meets(at))
        })
    }

    fn in_words_of(&mut self, fields: &Fields) -> Arc<EventLine> {
        let known = self.reworded.iter().find(|(known, _)| known == fields);
        if let Some((_, line)) = known {
            return Arc::clone(line);
        }
        let line = self.line;
        let event = match self.event() {
            Ok(event) => narrowed(event, fields),
            // Never send the whole event instead: it has fields that the
            // subscriber did not ask for.
            Err(why) => unreadable(line, why),
        };
        let mut draft = LineDraft::default();
        event.write(draft.out());
        draft.out().push(b'\n');
        let line = Arc::new(line.reworded(draft));
        self.reworded.push((fields.clone(), Arc::clone(&line)));
        line
    }
}

/// The event with only these fields of the VM.
fn narrowed(event: &Json, fields: &Fields) -> Json {
    let members = event.as_object().into_iter().flat_map(Object::iter);
    let members = members.map(|(name, value)| {
        let value = match (name, value) {
            ("vm", Json::Object(vm)) => Json::from(fields.of(vm)),
            _ => value.clone(),
        };
        (Key::Owned(name.to_string()), value)
    });
    Json::from(members.collect::<Object>())
}

/// What is sent in place of an event that can't be parsed: what it is about,
/// and the error.
fn unreadable(line: &EventLine, why: &serde_json::Error) -> Json {
    let mut event = Object::new();
    event.set("type", line.about.kind.name());
    event.set("zonename", &line.about.zonename);
    event.set("uuid", &line.about.uuid);
    event.set("seq", line.seq);
    let why = format!("the event can't be parsed to select its fields: {why}");
    event.set("error", why);
    Json::from(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{About, Hub, HubLimits};

    /// An event line as the hub makes it.
    fn line(text: &str) -> Arc<EventLine> {
        let hub = Hub::new(HubLimits {
            kept_events: 1,
            kept_bytes: 1 << 20,
            subscribers: 1,
            versions: 1,
            lag_events: 1,
            lag_bytes: 1 << 20,
        });
        let about = About {
            kind: EventKind::Modify,
            zonename: "z".into(),
            uuid: "u".into(),
        };
        let line = LineDraft::of(format!("{text}\n").as_bytes());
        hub.publish(about, None, line, |_, _| ());
        hub.hand_out(1).unwrap().remove(0)
    }

    #[test]
    fn an_event_that_cannot_be_read_is_never_sent_whole() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        let text = format!(
            r#"{{"type":"modify","vm":{{"alias":"a","internal_metadata":
            {{"secret":{deep}}}}},"changes":[]}}"#
        );
        let line = line(&text);
        let mut fields = Fields::default();
        fields.add("alias").unwrap();
        let fields = Some(fields);
        let paths = vec![Path::parse("alias").unwrap()];
        for wanted in [
            SubscriptionFilter {
                fields: fields.clone(),
                ..SubscriptionFilter::default()
            },
            SubscriptionFilter {
                fields,
                paths,
                ..SubscriptionFilter::default()
            },
        ] {
            let found = SharedEvent::new(&line).to(&wanted).unwrap();
            let event = std::str::from_utf8(found.text()).unwrap();
            assert!(!event.contains("secret"), "{event}");
            let event = Json::parse(event).unwrap();
            let error = event.get("error").and_then(Json::as_str).unwrap();
            assert!(error.contains("recursion limit"), "{error}");
            assert_eq!(event.get("seq"), Some(&Json::from(1u32)));
            assert_eq!(event.get("vm"), None);
        }
    }
}
