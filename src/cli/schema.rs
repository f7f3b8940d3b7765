//! `schema`: prints the description of the HTTP interface for machines.

use super::verb::{Call, STATUS, Verb};
use super::{Failure, print};

/// OpenAPI 3.1, as YAML. `make schema` writes the properties of VMs into it.
const DOCUMENT: &str = include_str!("../../docs/openapi.yaml");

pub const VERB: Verb = Verb {
    names: &["schema"],
    operands: "",
    summary: "the HTTP interface, as OpenAPI",
    about: "Prints a description of every endpoint, parameter, answer, event \
            and property of VMs: OpenAPI 3.1, as YAML.",
    options: &[],
    examples: [
        ("schema > openapi.yaml", "for a generator of clients"),
        ("schema | grep -A 3 ' max_swap:'", "what a property means"),
    ],
    status: STATUS,
    run,
};

fn run(call: Call) -> Result<(), Failure> {
    call.parse(0)?;
    print(DOCUMENT)
}
