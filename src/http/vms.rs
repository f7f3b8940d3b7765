//! The answers about one VM, and about all of them.

use std::sync::Arc;

use super::Host;
use super::answer::{Body, FullResponse, JSON, Pieces};
use super::counters::HttpCounters;
use super::request::Request;
use super::route::{OfVm, OfVms};
use crate::cache::Cache;
use crate::hub::{Hub, Vm, VmVersion};
use crate::settings::HttpLimits;
use crate::source::Source;
use crate::vm::filter::Search;
use crate::vm::json::{Json, Object};

/// The header field with the number of the last event that the answer includes.
pub const SEQ_FIELD: &str = "X-Vminfod-Seq";

/// What is needed to answer requests about VMs.
pub struct VmResponses {
    pub limits: HttpLimits,
    pub cache: Arc<Cache>,
    pub hub: Arc<Hub>,
    pub host: Box<dyn Host>,
    pub counters: HttpCounters,
}

impl VmResponses {
    /// The answer with all VMs that pass the filter of the request.
    pub fn all(&self, of: &OfVms, request: &Request) -> FullResponse {
        let mut snapshot = self.cache.snapshot();
        let seq = snapshot.seq;
        let etag = format!("\"{}-{seq}\"", self.cache.epoch());
        if request.has_version(&etag) {
            return versioned(not_modified(), &etag, seq);
        }
        let permit =
            of.filter.has_regex().then(|| self.counters.search_permit());
        if let Some(None) = permit {
            return busy(
                "too many requests search with regular expressions already; \
                 try again",
            );
        }
        if !of.filter.is_empty() {
            let search = Search::new(self.limits.search_time);
            let passes = |vm: &&Vm| {
                search.failure().is_none()
                    && of.filter.passes(vm.object(), &search)
            };
            snapshot.vms =
                snapshot.vms.iter().filter(passes).cloned().collect();
            if let Some(why) = search.failure() {
                return failure(400, why);
            }
        }
        let body = match &of.fields {
            None => Body::Pieces(Box::new(Array(snapshot.vms))),
            Some(fields) => {
                let mut vms = vec![b'['];
                for vm in &*snapshot.vms {
                    if vms.len() > 1 {
                        vms.push(b',');
                    }
                    fields.write(vm.object(), &mut vms);
                }
                vms.push(b']');
                Body::Bytes(vms)
            }
        };
        versioned(FullResponse::new(200, JSON, body), &etag, seq)
    }

    /// The answer with one VM.
    pub fn one(
        &self,
        name: &str,
        of: &OfVm,
        version: VmVersion,
        seq: u64,
        request: &Request,
    ) -> FullResponse {
        let Some(vm) = version.vm else {
            let full = FullResponse::text(404, format!("VM Not Found: {name}"));
            return full.with(SEQ_FIELD, &seq.to_string());
        };
        let etag = self.etag(version.seq);
        if request.has_version(&etag) {
            return versioned(not_modified(), &etag, seq);
        }
        versioned(FullResponse::new(200, JSON, body_of(&vm, of)), &etag, seq)
    }

    /// For a VM that is not served: why it could not be loaded, if it exists
    /// and has a fault.
    pub fn unloadable(&self, name: &str) -> Option<String> {
        let mut faults = self.host.faults(Some(name)).into_iter();
        // Faults of `sysinfo` are the host's, and not this VM's.
        let fault = faults.find(|(source, _)| *source != Source::Sysinfo)?;
        Some(format!("{name} can't be loaded: {}: {}", fault.0, fault.1))
    }

    /// The ETag of the version of a VM that event `seq` has made.
    pub fn etag(&self, seq: u64) -> String {
        format!("\"{}-{seq}\"", self.cache.epoch())
    }
}

/// The body of an answer about one VM, with the wanted fields.
pub fn body_of(vm: &Vm, of: &OfVm) -> Body {
    match &of.fields {
        None => Body::Shared(Arc::clone(vm.json())),
        Some(fields) => {
            let mut body = Vec::new();
            fields.write(vm.object(), &mut body);
            Body::Bytes(body)
        }
    }
}

/// Adds the ETag, and the number of the last event that the answer includes.
pub fn versioned(full: FullResponse, etag: &str, seq: u64) -> FullResponse {
    full.with("ETag", etag).with(SEQ_FIELD, &seq.to_string())
}

fn not_modified() -> FullResponse {
    FullResponse::new(304, JSON, Body::Bytes(Vec::new()))
}

/// An answer with an error message as JSON.
pub fn failure(status: u16, error: &str) -> FullResponse {
    let mut object = Object::new();
    object.set("error", error);
    FullResponse::json(status, Json::from(object).to_bytes())
}

/// A 503 answer for too many requests of a kind, which asks the client to try
/// again after a second.
pub fn busy(why: &str) -> FullResponse {
    FullResponse::text(503, why).with("Retry-After", "1")
}

/// The JSON array of VMs. The JSON of each VM is shared, not copied.
#[derive(Debug)]
struct Array(Arc<[Vm]>);

impl Pieces for Array {
    fn count(&self) -> usize {
        // Each VM, a comma between two VMs, and the two brackets.
        (2 * self.0.len() + 1).max(2)
    }

    fn piece(&self, at: usize) -> &[u8] {
        match (at, at % 2) {
            (0, _) => b"[",
            _ if at + 1 == self.count() => b"]",
            (_, 0) => b",",
            _ => self.0[at / 2].json(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_array_of_vms_is_json() {
        let array = |vms: &[&str]| {
            let vm = |json: &&str| {
                let vm = Json::parse(json).unwrap();
                Vm::new(vm.as_object().unwrap().clone())
            };
            let array = Array(vms.iter().map(vm).collect());
            let pieces = (0..array.count()).map(|at| array.piece(at));
            String::from_utf8(pieces.collect::<Vec<_>>().concat()).unwrap()
        };
        assert_eq!(array(&[]), "[]");
        assert_eq!(array(&["{}"]), "[{}]");
        assert_eq!(array(&["{}", "{\"a\":1}"]), "[{},{\"a\":1}]");
    }
}
