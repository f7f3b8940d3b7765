//! Parses the head of a request, within limits. This is pure.

use std::net::IpAddr;

use crate::settings::HttpLimits;

/// The most header fields of a request.
const HEADERS_MAX: usize = 100;

/// A request. Its body, if it has one, is read and dropped: some clients send
/// `{}` with every GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD`, …
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// Whether it is HTTP/1.1, and not HTTP/1.0.
    pub is_http11: bool,
    /// Whether the connection stays open after the answer.
    pub keep_alive: bool,
    /// The User-Agent field.
    pub user_agent: Option<String>,
    /// The host that the client asks: of the target if that is absolute, else
    /// of the Host field.
    pub host: Option<String>,
    /// Whether a browser has sent it for a web page from elsewhere, as the
    /// fields Origin and Sec-Fetch-Site show.
    pub is_from_web_page: bool,
    /// The versions that the client has: the values of If-None-Match.
    pub if_none_match: Option<String>,
    /// How many bytes of a body follow the head.
    pub body: usize,
}

impl Request {
    /// Whether its host is this machine or one of `names`, in the form that
    /// [`host_name`] gives. `local` is the address at which it came in. A
    /// request without a host is accepted.
    ///
    /// Any other name is refused, even if it resolves to this machine: with
    /// such a name, a page in a browser could reach the daemon.
    #[must_use]
    pub fn has_own_host(
        &self,
        local: Option<IpAddr>,
        names: &[String],
    ) -> bool {
        let Some(host) = &self.host else { return true };
        let Some(name) = host_name(host) else { return false };
        let is_local = match name.parse::<IpAddr>() {
            // On an IPv6 socket, `local` is an IPv4-mapped address for an IPv4
            // client.
            Ok(ip) => {
                ip.is_loopback() || Some(ip) == local.map(|l| l.to_canonical())
            }
            Err(_) => name == "localhost",
        };
        is_local || names.contains(&name)
    }

    /// Whether the client has the version with this ETag already.
    #[must_use]
    pub fn has_version(&self, etag: &str) -> bool {
        let had = self.if_none_match.iter().flat_map(|had| had.split(','));
        had.map(str::trim).any(|had| {
            had == "*" || had.strip_prefix("W/").unwrap_or(had) == etag
        })
    }
}

/// The name or address in a Host field, in one form for all spellings: without
/// port, brackets and trailing dot, in lower case. `None` if no host can have
/// such a name.
#[must_use]
pub fn host_name(host: &str) -> Option<String> {
    let name = without_port(host.trim());
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    if let Ok(ip) = bare.unwrap_or(name).parse::<IpAddr>() {
        return Some(ip.to_canonical().to_string());
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let can_be = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let is_name = !name.is_empty() && name.bytes().all(can_be);
    is_name.then(|| name.to_ascii_lowercase())
}

/// A Host field without its port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

/// What was parsed from a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsedHead {
    /// A whole head, and its length in bytes.
    Request(Request, usize),
    /// The beginning of a head.
    Partial,
    /// Something that is answered with this status, and ends the connection.
    Refused(u16),
}

/// Parses what a client has sent so far.
#[must_use]
pub fn parse(buffer: &[u8], limits: &HttpLimits) -> ParsedHead {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let len = match parsed.parse(buffer) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return partial(buffer, limits),
        Err(httparse::Error::TooManyHeaders) => {
            return ParsedHead::Refused(431);
        }
        Err(_) => return ParsedHead::Refused(400),
    };
    let (Some(method), Some(target), Some(version)) =
        (parsed.method, parsed.path, parsed.version)
    else {
        return ParsedHead::Refused(400);
    };
    if target.len() > limits.target_bytes {
        return ParsedHead::Refused(414);
    }
    if len > limits.head_bytes {
        return ParsedHead::Refused(431);
    }
    let mut request = Request {
        method: method.to_string(),
        target: target.to_string(),
        is_http11: version == 1,
        keep_alive: version == 1,
        user_agent: None,
        host: None,
        is_from_web_page: false,
        if_none_match: None,
        body: 0,
    };
    if let Err(status) = request.read_headers(parsed.headers, limits) {
        return ParsedHead::Refused(status);
    }
    // An absolute target, as sent to a proxy: its host replaces the Host field.
    if let Some(rest) = target.strip_prefix("http://") {
        let end = rest.find('/').unwrap_or(rest.len());
        let path = if end == rest.len() { "/" } else { &rest[end..] };
        request.host = Some(rest[..end].to_string());
        request.target = path.to_string();
    }
    ParsedHead::Request(request, len)
}

impl Request {
    /// Sets what the header fields say.
    ///
    /// # Errors
    /// The status of the answer, if the request is refused because of them.
    fn read_headers(
        &mut self,
        headers: &[httparse::Header<'_>],
        limits: &HttpLimits,
    ) -> Result<(), u16> {
        let mut body = None;
        for header in headers {
            let name = header.name.to_ascii_lowercase();
            let value = String::from_utf8_lossy(header.value);
            match name.as_str() {
                "connection" => {
                    for token in value.split(',').map(str::trim) {
                        if token.eq_ignore_ascii_case("close") {
                            self.keep_alive = false;
                        } else if token.eq_ignore_ascii_case("keep-alive") {
                            self.keep_alive = true;
                        }
                    }
                }
                "content-length" => match (body, length(&value)) {
                    (None, Some(length)) if length > limits.body_bytes => {
                        return Err(413);
                    }
                    (None, Some(length)) => body = Some(length),
                    // The end of the body would be unknown, and a part of the
                    // body could be taken for the next request.
                    (before, length)
                        if length.is_none() || before != length =>
                    {
                        return Err(400);
                    }
                    _ => {}
                },
                "transfer-encoding" => return Err(400),
                "user-agent" => self.user_agent = Some(value.into_owned()),
                "host" if self.host.is_some() => return Err(400),
                "host" => self.host = Some(value.trim().to_string()),
                "origin" => self.is_from_web_page = true,
                "sec-fetch-site" => {
                    self.is_from_web_page |=
                        !matches!(value.trim(), "none" | "same-origin");
                }
                "if-none-match" => {
                    let before = self.if_none_match.take();
                    self.if_none_match = Some(match before {
                        None => value.into_owned(),
                        Some(before) => format!("{before},{value}"),
                    });
                }
                _ => {}
            }
        }
        self.body = body.unwrap_or(0);
        Ok(())
    }
}

/// The value of a Content-Length field; `None` if it has anything but digits.
fn length(value: &str) -> Option<usize> {
    let value = value.trim();
    let is_number =
        !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    // A number that does not fit is over the limit, too.
    is_number.then(|| value.parse().unwrap_or(usize::MAX))
}

/// Refuses a head that is too long already, though it is not whole yet.
fn partial(buffer: &[u8], limits: &HttpLimits) -> ParsedHead {
    // Method and version take a few bytes besides the target.
    let line_max = limits.target_bytes + 32;
    if buffer.len() > line_max && !buffer[..line_max].contains(&b'\n') {
        ParsedHead::Refused(414)
    } else if buffer.len() > limits.head_bytes {
        ParsedHead::Refused(431)
    } else {
        ParsedHead::Partial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> ParsedHead {
        parse(text.as_bytes(), &HttpLimits::default())
    }

    fn request(text: &str) -> Request {
        match parsed(text) {
            ParsedHead::Request(request, len) => {
                assert_eq!(len, text.len());
                request
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn keep_alive_follows_version_and_connection_field() {
        let stays = |text: &str| request(text).keep_alive;
        assert!(stays("GET /ping HTTP/1.1\r\n\r\n"));
        assert!(!stays("GET /ping HTTP/1.1\r\nConnection: Close\r\n\r\n"));
        assert!(!stays("GET /ping HTTP/1.0\r\n\r\n"));
        assert!(stays("GET /ping HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"));
    }

    #[test]
    fn the_user_agent_is_read() {
        let request = request("GET / HTTP/1.1\r\nUser-Agent: vmadm\r\n\r\n");
        assert_eq!(request.user_agent.as_deref(), Some("vmadm"));
    }

    #[test]
    fn a_host_that_is_not_this_machine_is_refused() {
        let is_ours = |host: &str, names: &[String]| {
            let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let local = "192.0.2.1".parse().ok();
            request(&text).has_own_host(local, names)
        };
        for host in [
            "127.0.0.1:9090",
            "127.0.0.1",
            "127.9.9.9:1",
            "localhost",
            "LocalHost:9090",
            "localhost.",
            "[::1]:9090",
            "[::1]",
            "192.0.2.1:9090",
        ] {
            assert!(is_ours(host, &[]), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:9090",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "0.0.0.0:9090",
            "192.0.2.2",
            "[::2]",
            "localhost:x",
            "localhost@evil.example",
        ] {
            assert!(!is_ours(host, &[]), "{host}");
        }
        for (allowed, hosts) in [
            ("HV1.example.:9090", ["hv1.example", "Hv1.Example.:1"]),
            ("192.0.2.7", ["192.0.2.7:9090", "[::ffff:192.0.2.7]"]),
            ("[2001:DB8:0::1]:9090", ["[2001:db8::1]", "2001:db8::1"]),
        ] {
            let names = [host_name(allowed).unwrap()];
            for host in hosts {
                assert!(is_ours(host, &names), "{allowed} {host}");
                assert!(!is_ours(host, &[]), "{host}");
            }
        }
        for none in ["", " ", ":9090", ".", "a b", "http://hv1", "a/b", "*"] {
            assert_eq!(host_name(none), None, "{none}");
        }
        // An IPv4 client of a listener on [::].
        let text = "GET / HTTP/1.1\r\nHost: 192.0.2.1:9090\r\n\r\n";
        let local = "::ffff:192.0.2.1".parse().ok();
        assert!(request(text).has_own_host(local, &[]));
        assert!(request("GET / HTTP/1.0\r\n\r\n").has_own_host(None, &[]));
    }

    #[test]
    fn an_absolute_target_replaces_the_host_field() {
        let parts = |target: &str| {
            let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let request = request(&text);
            (request.host.unwrap_or_default(), request.target)
        };
        let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
        assert_eq!(parts("http://b:1/c?d"), pair("b:1", "/c?d"));
        assert_eq!(parts("http://b"), pair("b", "/"));
        assert_eq!(parts("/http://b"), pair("a", "/http://b"));
    }

    #[test]
    fn a_request_from_a_web_page_is_recognized() {
        let is_from_web_page = |field: &str| {
            request(&format!("GET / HTTP/1.1\r\n{field}\r\n\r\n"))
                .is_from_web_page
        };
        assert!(is_from_web_page("Origin: null"));
        assert!(is_from_web_page("Sec-Fetch-Site: cross-site"));
        assert!(!is_from_web_page("Sec-Fetch-Site: none"));
        assert!(!is_from_web_page("A: b"));
    }

    #[test]
    fn weak_and_strong_etags_match() {
        let has = |field: &str| {
            let text = format!("GET / HTTP/1.1\r\n{field}\r\n\r\n");
            request(&text).has_version("\"a-1\"")
        };
        assert!(has("If-None-Match: \"a-1\""));
        assert!(has("If-None-Match: \"x\", W/\"a-1\""));
        assert!(has("If-None-Match: *"));
        assert!(has("If-None-Match: \"x\"\r\nIf-None-Match: \"a-1\""));
        assert!(!has("If-None-Match: \"a-11\""));
        assert!(!has("A: b"));
    }

    #[test]
    fn content_length_gives_the_size_of_the_body() {
        let body = |fields: &str| {
            request(&format!("GET / HTTP/1.1\r\n{fields}\r\n")).body
        };
        assert_eq!(body(""), 0);
        assert_eq!(body("Content-Length: 0\r\n"), 0);
        assert_eq!(body("content-length: 2 \r\n"), 2);
        assert_eq!(body(&"Content-Length: 65536\r\n".repeat(2)), 65536);
    }

    #[test]
    fn an_incomplete_head_is_partial() {
        for text in ["", "GET", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nA: b"]
        {
            assert_eq!(parsed(text), ParsedHead::Partial, "{text:?}");
        }
    }

    #[test]
    fn an_invalid_request_is_refused_with_its_status() {
        let head = |lines: &str| format!("GET / HTTP/1.1\r\n{lines}\r\n");
        for (text, status) in [
            ("rubbish\r\n\r\n".to_string(), 400),
            ("GET / HTTP/2.0\r\n\r\n".to_string(), 400),
            ("GET /\0 HTTP/1.1\r\n\r\n".to_string(), 400),
            (head("Content-Length: 65537\r\n"), 413),
            (head("Content-Length: 99999999999999999999999\r\n"), 413),
            (head("Content-Length: 0\r\nContent-Length: 5\r\n"), 400),
            (head("Content-Length: +5\r\n"), 400),
            (head("Content-Length: 5, 5\r\n"), 400),
            (head("Content-Length: -1\r\n"), 400),
            (head("Content-Length:\r\n"), 400),
            (head("Transfer-Encoding: chunked\r\n"), 400),
            (head("A b: c\r\n"), 400),
            (head("Host: a\r\nHost: a\r\n"), 400),
            (head(&"A: b\r\n".repeat(200)), 431),
            (head(&format!("A: {}\r\n", "b".repeat(40_000))), 431),
            (format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(9000)), 414),
            (format!("GET /{}", "a".repeat(9000)), 414),
            (format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(40_000)), 431),
        ] {
            let got = parsed(&text);
            let shown = &text[..text.len().min(60)];
            assert_eq!(got, ParsedHead::Refused(status), "{shown:?}");
        }
    }
}
