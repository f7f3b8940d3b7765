//! From method and target to what is asked for: pure.

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/ping`
    Ping,
    /// `/status`
    Status {
        /// Whether the long one is asked for.
        full: bool,
    },
    /// `/vms`
    Vms,
    /// `/vms/NAME`
    Vm(String),
    /// `/events`
    Events,
    /// Any other path.
    Unsupported,
    /// Any method but GET and HEAD.
    BadMethod,
    /// A query that names what there is not; says what.
    BadQuery(String),
}

/// Decides what a request asks for.
#[must_use]
pub fn route(method: &str, target: &str) -> Route {
    if method != "GET" && method != "HEAD" {
        return Route::BadMethod;
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut full = false;
    let route = match path {
        "/ping" => Route::Ping,
        "/status" => Route::Status { full },
        "/vms" => Route::Vms,
        "/events" => Route::Events,
        _ => match path.strip_prefix("/vms/") {
            Some(name) if !name.is_empty() && !name.contains('/') => {
                match percent_decode(name) {
                    Some(name) => Route::Vm(name),
                    None => {
                        let error = format!("not a VM's name: {name}");
                        return Route::BadQuery(error);
                    }
                }
            }
            _ => return Route::Unsupported,
        },
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match (&route, pair) {
            (Route::Status { .. }, "full=true") => full = true,
            (Route::Status { .. }, "full=false") => full = false,
            _ => {
                let name = pair.split('=').next().unwrap_or(pair);
                let error = format!("unknown query parameter or value: {name}");
                return Route::BadQuery(error);
            }
        }
    }
    match route {
        Route::Status { .. } => Route::Status { full },
        other => other,
    }
}

/// Decodes `%XX` once; `None` if that is no text.
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path() {
        let vm = |name: &str| Route::Vm(name.to_string());
        for (target, wanted) in [
            ("/ping", Route::Ping),
            ("/status", Route::Status { full: false }),
            ("/status?full=true", Route::Status { full: true }),
            ("/vms", Route::Vms),
            ("/vms?", Route::Vms),
            ("/vms/abc", vm("abc")),
            ("/vms/a%2Db%C3%A9", vm("a-bé")),
            ("/vms/a%252D", vm("a%2D")),
            ("/events", Route::Events),
            ("/", Route::Unsupported),
            ("/vms/", Route::Unsupported),
            ("/vms/a/b", Route::Unsupported),
            ("/pings", Route::Unsupported),
            ("*", Route::Unsupported),
            ("http://x/ping", Route::Unsupported),
        ] {
            assert_eq!(route("GET", target), wanted, "{target}");
            assert_eq!(route("HEAD", target), wanted, "{target}");
            assert_eq!(route("POST", target), Route::BadMethod);
        }
    }

    #[test]
    fn what_there_is_not_is_named() {
        for (target, named) in [
            ("/vms?bogus=1", "bogus"),
            ("/ping?full=true", "full"),
            ("/status?full=maybe", "full"),
            ("/vms/%zz", "%zz"),
            ("/vms/%ff", "%ff"),
            ("/vms/%f", "%f"),
        ] {
            match route("GET", target) {
                Route::BadQuery(error) => assert!(error.contains(named)),
                other => panic!("{target}: {other:?}"),
            }
        }
    }
}
