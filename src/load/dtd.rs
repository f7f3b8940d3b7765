//! What zonecfg.dtd.1 refuses in a zone's XML.
//!
//! libzonecfg uses nothing of a document that is not valid: for zoneadm there
//! is no such zone then, and zonecfg, and therefore vmadm, can't change it. The
//! rules are those of the DTD of 2019; only a few values are checked. A later
//! DTD may accept more: only zoneadm can say whether it does.

use roxmltree::{Document, Node};

/// An element: its name, the attributes that it must have, those that it may
/// have, and the elements that may be in it.
type Rule = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

/// Sorted by name.
const RULES: &[Rule] = &[
    ("admin", &["user", "auths"], &[], &[]),
    ("attr", &["name", "type", "value"], &[], &[]),
    ("dataset", &["name"], &[], &[]),
    ("deleted-device", &["match"], &[], &[]),
    ("dev-perm", &["name", "uid", "gid", "mode", "acl"], &[], &[]),
    ("device", &["match"], &[], &["net-attr"]),
    ("filesystem", &["special", "directory", "type"], &["raw"], &["fsoption"]),
    ("fsoption", &["name"], &[], &[]),
    ("inherited-pkg-dir", &["directory"], &[], &[]),
    ("mcap", &["physcap"], &[], &[]),
    ("net-attr", &["name", "value"], &[], &[]),
    (
        "network",
        &["physical"],
        &[
            "address",
            "allowed-address",
            "defrouter",
            "global-nic",
            "mac-addr",
            "vlan-id",
        ],
        &["net-attr"],
    ),
    ("package", &["name", "version"], &[], &["patch"]),
    ("patch", &["id"], &[], &[]),
    ("pset", &["ncpu_min", "ncpu_max"], &[], &[]),
    ("rctl", &["name"], &[], &["rctl-value"]),
    ("rctl-value", &["priv", "limit", "action"], &[], &[]),
    ("security-flags", &[], &["default", "lower", "upper"], &[]),
    ("tmp_pool", &["importance"], &[], &[]),
    (
        "zone",
        &["name", "zonepath", "autoboot"],
        &[
            "bootargs",
            "brand",
            "debugid",
            "fs-allowed",
            "hostid",
            "ip-type",
            "limitpriv",
            "pool",
            "scheduling-class",
            "version",
        ],
        &[
            "admin",
            "attr",
            "dataset",
            "deleted-device",
            "dev-perm",
            "device",
            "filesystem",
            "inherited-pkg-dir",
            "mcap",
            "network",
            "package",
            "patch",
            "pset",
            "rctl",
            "security-flags",
            "tmp_pool",
        ],
    ),
];

/// The values that an attribute may have; `None` if any value is allowed.
fn values_of(
    element: &str,
    attribute: &str,
) -> Option<&'static [&'static str]> {
    match (element, attribute) {
        ("zone", "autoboot") => Some(&["true", "false"]),
        ("zone", "version") => Some(&["1"]),
        ("attr", "type") => Some(&["boolean", "int", "string", "uint"]),
        _ => None,
    }
}

/// The most refusals that are reported for one document.
pub const REFUSALS_MAX: usize = 32;

/// Something in a document that the DTD does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The line on which its element begins.
    pub line: u32,
    /// What is wrong, in the same words for every document.
    pub what: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// What the DTD refuses in a document: at most [`REFUSALS_MAX`] things.
#[must_use]
pub fn refusals(document: &Document<'_>) -> Vec<Refusal> {
    let zone = document.root_element();
    let mut refused = Vec::new();
    if !has_doctype(&document.input_text()[..zone.range().start]) {
        let what = "no <!DOCTYPE> before the root element".to_string();
        refused.push(Refusal { line: 1, what });
    }
    check(document, zone, &["zone"], &mut refused);
    refused
}

/// Whether the text before the root element, without its comments, names a
/// document type.
fn has_doctype(before: &str) -> bool {
    let mut rest = before;
    while let Some((text, after)) = rest.split_once("<!--") {
        if text.contains("<!DOCTYPE") {
            return true;
        }
        rest = after.split_once("-->").map_or("", |(_, after)| after);
    }
    rest.contains("<!DOCTYPE")
}

/// Checks an element and what is in it. The recursion goes as deep as [`RULES`]
/// allow elements to nest, and no deeper.
fn check(
    document: &Document<'_>,
    element: Node<'_, '_>,
    allowed: &[&str],
    refused: &mut Vec<Refusal>,
) {
    let name = element.tag_name().name();
    let mut refuse = |what: String| {
        let line = document.text_pos_at(element.range().start).row;
        let what = format!("<{name}> {what}").chars().take(200).collect();
        if refused.len() < REFUSALS_MAX {
            refused.push(Refusal { line, what });
        }
    };
    let known = RULES.binary_search_by(|rule| rule.0.cmp(name));
    let (Ok(at), true) = (known, allowed.contains(&name)) else {
        let parent = element
            .parent_element()
            .map_or("document", |parent| parent.tag_name().name());
        return refuse(format!("is not expected in <{parent}>"));
    };
    let (_, required, optional, children) = RULES[at];
    if element.namespaces().len() > 0 {
        refuse("has a namespace".to_string());
    }
    for attribute in element.attributes() {
        let (own, value) = (attribute.name(), attribute.value());
        let is_known = attribute.namespace().is_none()
            && (required.contains(&own) || optional.contains(&own));
        if !is_known {
            refuse(format!("has the unknown attribute {own}"));
        } else if values_of(name, own).is_some_and(|all| !all.contains(&value))
        {
            refuse(format!("has {own}={value:?}, which is not allowed"));
        }
    }
    for own in required {
        if element.attribute(*own).is_none() {
            refuse(format!("lacks the attribute {own}"));
        }
    }
    let is_text = |child: &Node<'_, '_>| {
        let text = child.text().filter(|_| child.is_text());
        text.is_some_and(|t| children.is_empty() || !t.trim().is_empty())
    };
    if element.children().any(|child| is_text(&child)) {
        refuse("has text in it".to_string());
    }
    for child in element.children().filter(Node::is_element) {
        if refused.len() < REFUSALS_MAX {
            check(document, child, children, refused);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCTYPE: &str = "<!DOCTYPE zone PUBLIC \"-//Sun Microsystems \
        Inc//DTD Zones//EN\" \"file:///usr/share/lib/xml/dtd/zonecfg.dtd.1\">";

    fn verdict(text: &str) -> Result<(), String> {
        let options = roxmltree::ParsingOptions {
            allow_dtd: true,
            ..roxmltree::ParsingOptions::default()
        };
        let document = Document::parse_with_options(text, options).unwrap();
        match refusals(&document).first() {
            Some(refusal) => Err(refusal.to_string()),
            None => Ok(()),
        }
    }

    fn zone(attributes: &str, children: &str) -> Result<(), String> {
        verdict(&format!(
            "<?xml version=\"1.0\"?>\n{DOCTYPE}\n<!-- edited -->\n\
             <zone name=\"z\" zonepath=\"/z\" autoboot=\"false\"{attributes}>\
             {children}</zone>"
        ))
    }

    #[test]
    fn rules_are_sorted() {
        assert!(RULES.is_sorted_by_key(|rule| rule.0));
    }

    #[test]
    fn a_valid_document_is_accepted() {
        let attr = "<attr name=\"a\" type=\"string\" value=\"\"/>";
        let device = "<device match=\"/d\">\n <net-attr name=\"a\" \
            value=\"\"/></device>";
        for (attributes, children) in [
            ("", ""),
            (" ip-type=\"foo\" version=\"1\"", "\n <!-- a comment -->\n"),
            ("", &attr.repeat(2)),
            ("", device),
            (
                "",
                "<rctl name=\"\"><rctl-value priv=\"\" limit=\"\" \
                 action=\"\"/></rctl><network physical=\"\"/>",
            ),
        ] {
            assert_eq!(zone(attributes, children), Ok(()), "{children}");
        }
    }

    #[test]
    fn an_invalid_document_is_refused_with_the_line() {
        for (attributes, children, why) in [
            ("", "<nonsense/>", "line 4: <nonsense> is not expected in <zone>"),
            (
                "",
                "\n<net-attr/>",
                "line 5: <net-attr> is not expected in <zone>",
            ),
            (" x=\"\"", "", "line 4: <zone> has the unknown attribute x"),
            (
                " version=\"2\"",
                "",
                "line 4: <zone> has version=\"2\", which is not allowed",
            ),
            (" xmlns:a=\"b\"", "", "line 4: <zone> has a namespace"),
            ("", "text", "line 4: <zone> has text in it"),
            (
                "",
                "\n\n<attr name=\"note\" value=\"x\"/>",
                "line 6: <attr> lacks the attribute type",
            ),
            (
                "",
                "<attr name=\"\" type=\"\" value=\"x\"/>",
                "line 4: <attr> has type=\"\", which is not allowed",
            ),
            (
                "",
                "<dataset name=\"\"> </dataset>",
                "line 4: <dataset> has text in it",
            ),
        ] {
            assert_eq!(zone(attributes, children), Err(why.to_string()));
        }
        let bare = "<!-- <!DOCTYPE zone> --><zone/>";
        let why = "line 1: no <!DOCTYPE> before the root element";
        assert_eq!(verdict(bare), Err(why.into()));
        let other = format!("{DOCTYPE}<attr/>");
        assert!(verdict(&other).is_err());
    }
    #[test]
    fn all_faults_of_a_document_are_reported_up_to_a_limit() {
        let bad = |count: usize| {
            let bad = "<attr name=\"a\" value=\"\" new=\"\"/>\n".repeat(count);
            let text = format!(
                "{DOCTYPE}<zone name=\"z\" zonepath=\"/z\" autoboot=\"false\" \
                 {}=\"\">{bad}</zone>",
                "x".repeat(1000)
            );
            let options = roxmltree::ParsingOptions {
                allow_dtd: true,
                ..roxmltree::ParsingOptions::default()
            };
            let document =
                Document::parse_with_options(&text, options).unwrap();
            refusals(&document)
        };
        let all = bad(1);
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(all.iter().all(|refusal| refusal.what.len() <= 200));
        assert_eq!(all[1].what, "<attr> has the unknown attribute new");
        assert_eq!(bad(1000).len(), REFUSALS_MAX);
    }
}
