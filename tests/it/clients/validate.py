"""Validates what the daemon has said against docs/openapi.yaml.

usage: validate.py OPENAPI < LINES

Each line of the input is SCHEMA, a tab, and JSON. Prints what is wrong, and
ends with 1 if anything is. VMs must have no property that is not described.
"""

import json
import sys

import yaml
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

with open(sys.argv[1], encoding="utf-8") as file:
    document = yaml.safe_load(file)
validate(document)
print("the document is valid OpenAPI " + document["openapi"])

schemas = document["components"]["schemas"]
for name in ("Vm", "Nic", "Disk", "Filesystem", "Snapshot"):
    schemas[name]["additionalProperties"] = False
resource = Resource(contents=document, specification=DRAFT202012)
registry = Registry().with_resource("urn:vminfod", resource)
validators = {}
count = wrong = 0
for line in sys.stdin:
    name, text = line.rstrip("\n").split("\t", 1)
    if name not in validators:
        reference = {"$ref": "urn:vminfod#/components/schemas/" + name}
        validators[name] = Draft202012Validator(reference, registry=registry)
    count += 1
    errors = list(validators[name].iter_errors(json.loads(text)))
    for error in errors[:3]:
        deepest = min(error.context or [error], key=lambda e: -len(e.path))
        wrong += 1
        place = ".".join(str(part) for part in deepest.absolute_path)
        print(f"{name} {place}: {deepest.message[:300]}")
print(f"{count} values, {wrong} errors")
sys.exit(1 if wrong else 0)
