//! The front door, from the templates that compose uses too, against a backend that says what it was sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;
use xtask::http::{Answer, request};
use xtask::net::free_port;
use xtask::servers::{Nginx, NginxOptions};

/// R14 of reliability-security.md, and what a busy machine may add.
const ANSWERED_WITHIN: Duration = Duration::from_millis(2_000 + 500);
/// What a replica that stands still costs the first who meets it, less what clocks differ by.
const NOTICED_AFTER: Duration = Duration::from_millis(1_400);

/// Stands still: the kernel takes connections in its place, and nobody answers. For as long as the process lives.
fn stopped() -> u16 {
    let listener = Box::leak(Box::new(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")));
    listener.local_addr().expect("an address").port()
}

/// Answers every request with JSON: its own name, the head it was sent, the size of the body. `/own-problem` is answered
/// with a problem of the backend's own, `slow_ms=N` so much later. Its thread ends with the process.
fn backend(name: &'static str) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(name, stream));
        }
    });
    port
}

fn serve(name: &str, stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().expect("a clone"));
    let mut stream = stream;
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        let length = head.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        if let Some(slow_ms) = head[0].split("slow_ms=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()) {
            thread::sleep(Duration::from_millis(slow_ms));
        }
        let (status, kind, text) = if head[0].contains("/own-problem") {
            ("404 Not Found", "application/problem+json", r#"{"code":"UNIT_NOT_FOUND"}"#.to_owned())
        } else {
            let text = serde_json::json!({"name": name, "head": head, "body_bytes": body.len()}).to_string();
            ("200 OK", "application/json", text)
        };
        // As a replica marks the public list: to be kept to the end of this second.
        let kept = if head[0].contains("kept=") {
            let second = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
            let etag =
                if head.iter().any(|line| line.eq_ignore_ascii_case("accept-encoding: gzip")) { "u-1-gz" } else { "u-1" };
            format!(
                "X-Accel-Expires: @{second}\r\nETag: \"{etag}\"\r\nVary: accept-encoding\r\nX-Served-By: {name}\r\n\
                 X-Cache: MISS\r\nCache-Status: casitas; fwd=miss\r\nCache-Control: public, max-age=1\r\n"
            )
        } else {
            String::new()
        };
        let own = "Content-Security-Policy: default-src 'self'\r\nX-Request-Id: the-backend's";
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{kept}{own}\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

struct Front {
    nginx: Nginx,
    _dir: TempDir,
}

impl Front {
    fn start(change: impl FnOnce(&mut NginxOptions)) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let passable = std::fs::Permissions::from_mode(0o711);
        let dir = tempfile::Builder::new().prefix("casitas-nginx-").permissions(passable).tempdir().expect("a folder");
        let queries = vec![backend("query-1"), backend("query-2")];
        let mut options = NginxOptions::new(free_port().expect("a port"), vec![backend("command")], queries);
        change(&mut options);
        let nginx = Nginx::start(&dir.path().join("nginx"), &options).expect("Nginx starts");
        Self { nginx, _dir: dir }
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: casitas.test\r\nConnection: close\r\n{headers}{length}\r\n");
        request(self.nginx.port(), &(head + body)).expect("an answer")
    }

    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", "")
    }
}

fn json(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

fn assert_problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let problem = json(answer);
    assert_eq!((&problem["status"], &problem["code"]), (&status.into(), &code.into()), "{answer:?}");
    assert!(problem["title"].is_string() && problem["detail"].is_string() && problem["type"].is_string());
    assert_eq!(problem["trace_id"].as_str(), answer.header("x-request-id"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_security_headers(answer);
}

fn assert_security_headers(answer: &Answer) {
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer:?}");
    assert_eq!(answer.header("x-frame-options"), Some("DENY"));
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    let policies = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-security-policy"));
    assert_eq!(policies.count(), 1);
    assert!(!answer.header("server").unwrap_or_default().contains('/'), "the version is nobody's business");
}

/// The values of a header in the head that the backend was sent.
fn received(answer: &Answer, header: &str) -> Vec<String> {
    let head = json(answer)["head"].clone();
    let prefix = format!("{header}: ");
    let lines = head.as_array().expect("a head").iter().filter_map(Value::as_str);
    lines.filter_map(|line| line.to_lowercase().strip_prefix(&prefix).map(str::to_owned)).collect()
}

#[test]
fn commands_go_to_the_command_api_and_queries_to_both_replicas_in_turn() {
    let front = Front::start(|_| {});
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        assert_eq!(json(&front.send(method, "/units", "", "{}"))["name"], "command");
    }
    let names: Vec<Value> = (0..8).map(|_| json(&front.get("/units/available"))["name"].clone()).collect();
    for replica in ["query-1", "query-2"] {
        assert_eq!(names.iter().filter(|name| *name == replica).count(), 4, "{names:?}");
    }
    assert_security_headers(&front.get("/units/available"));
}

/// Waits until a second has just begun.
fn next_second() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time");
    thread::sleep(Duration::from_secs(1).saturating_sub(Duration::from_nanos(u64::from(now.subsec_nanos()))));
    thread::sleep(Duration::from_millis(20));
}

#[test]
fn the_public_list_is_kept_for_the_rest_of_a_second_for_those_without_a_token() {
    let front = Front::start(|_| {});
    for path in ["/units/available?kept=1", "/v1/units/available?kept=2"] {
        next_second();
        let asked: Vec<Answer> = (0..5).map(|_| front.get(path)).collect();
        let by = |answer: &Answer| answer.header("x-served-by").unwrap_or_default().to_owned();
        // The first is not written: most searches are asked once.
        assert!(
            asked[..2].iter().all(|answer| by(answer) != "nginx" && answer.header("x-cache") == Some("MISS")),
            "{asked:?}"
        );
        for hit in &asked[2..] {
            assert_eq!((by(hit).as_str(), hit.header("x-cache")), ("nginx", Some("HIT")), "{asked:?}");
            assert_eq!(hit.header("cache-status"), Some("casitas; hit; ttl=0; detail=nginx"));
            assert_eq!(hit.body, asked[1].body);
            assert_eq!(hit.header("x-accel-expires"), None);
            assert_ne!(hit.header("x-request-id"), asked[1].header("x-request-id"));
            assert_security_headers(hit);
        }
        let unchanged = front.send("GET", path, "If-None-Match: \"u-1\"\r\n", "");
        assert_eq!((unchanged.status, unchanged.body.as_str(), by(&unchanged).as_str()), (304, "", "nginx"));
        for own in ["Authorization: Bearer x", "Casitas-Min-Position: units:1", "Accept-Encoding: br, gzip"] {
            let answer = front.send("GET", path, &format!("{own}\r\n"), "");
            assert_ne!(by(&answer), "nginx", "{own}");
        }
        for _ in 0..2 {
            front.send("GET", path, "Accept-Encoding: gzip, br\r\n", "");
        }
        let packed = front.send("GET", path, "Accept-Encoding: GZIP;q=0.8\r\n", "");
        assert_eq!((packed.header("etag"), by(&packed).as_str()), (Some("\"u-1-gz\""), "nginx"));
        let refused = front.send("GET", path, "Accept-Encoding: gzip;q=0\r\n", "");
        assert_eq!(refused.header("etag"), Some("\"u-1\""));
        next_second();
        assert_ne!(by(&front.get(path)), "nginx", "the second is over");
    }
}

#[test]
fn the_micro_cache_can_be_switched_off_and_other_routes_never_use_it() {
    let front = Front::start(|_| {});
    let off = Front::start(|options| options.micro_cache = false);
    next_second();
    for _ in 0..4 {
        assert_ne!(off.get("/units/available?kept=1").header("x-served-by"), Some("nginx"));
        assert_ne!(front.get("/units?kept=1").header("x-served-by"), Some("nginx"));
        assert_ne!(front.send("POST", "/units/available?kept=1", "", "{}").header("x-served-by"), Some("nginx"));
    }
}

#[test]
fn a_dead_replica_costs_no_get_and_a_dead_command_api_is_a_problem() {
    let front = Front::start(|options| {
        options.query_ports[0] = free_port().unwrap();
        options.command_ports[0] = free_port().unwrap();
    });
    for _ in 0..10 {
        assert_eq!(json(&front.get("/units"))["name"], "query-2");
    }
    let answer = front.send("POST", "/units", "", "{}");
    assert_problem(&answer, 502, "UNAVAILABLE");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

/// And how long it took.
fn timed(ask: impl FnOnce() -> Answer) -> (Answer, Duration) {
    let began = Instant::now();
    let answer = ask();
    (answer, began.elapsed())
}

/// Asks until one of those that stand still was met: whoever asked last, be it for readiness, has Nginx leave them alone for a
/// moment. Every answer comes in time.
fn until_met(within: Duration, ask: impl Fn() -> Answer) -> Vec<Answer> {
    let began = Instant::now();
    let mut answers = Vec::new();
    loop {
        let (answer, took) = timed(&ask);
        assert!(took < within, "{took:?}: {answer:?}");
        answers.push(answer);
        if took >= NOTICED_AFTER {
            return answers;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "none was met");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_replica_that_stands_still_costs_time_and_no_get() {
    for path in ["/units", "/units/available", "/v1/units/available"] {
        let front = Front::start(|options| options.query_ports[0] = stopped());
        for answer in until_met(ANSWERED_WITHIN, || front.get(path)) {
            assert_eq!((answer.status, &json(&answer)["name"]), (200, &"query-2".into()), "{path}");
        }
    }
}

#[test]
fn where_all_replicas_stand_still_a_get_is_told_so_within_two_seconds() {
    let front = Front::start(|options| options.query_ports = vec![stopped(), stopped()]);
    for answer in until_met(ANSWERED_WITHIN, || front.get("/units")) {
        // 502 while all are left alone.
        assert!([502, 504].contains(&answer.status), "{answer:?}");
        assert_problem(&answer, answer.status, "UNAVAILABLE");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
}

#[test]
fn a_get_that_waits_for_its_position_is_given_the_time_that_it_asks_for() {
    let front = Front::start(|_| {});
    let position = "Casitas-Min-Position: units:7\r\n";
    for path in ["/units?slow_ms=1900", "/units/available?slow_ms=1900"] {
        assert_eq!(front.send("GET", path, position, "").status, 200, "{path}");
    }
    let longer = format!("{position}Prefer: wait=5\r\n");
    let (answer, took) = timed(|| front.send("GET", "/units?slow_ms=2600", &longer, ""));
    assert_eq!(answer.status, 200);
    assert!(took >= Duration::from_millis(2_600), "{took:?}");
    // The others are given up at what every replica keeps to.
    let (answer, took) = timed(|| front.get("/units?slow_ms=2600"));
    assert_problem(&answer, 504, "UNAVAILABLE");
    assert!(took < ANSWERED_WITHIN, "{took:?}");
    let still = Front::start(|options| options.query_ports = vec![stopped(), stopped()]);
    for answer in until_met(Duration::from_millis(2_200 + 500), || still.send("GET", "/units", position, "")) {
        assert_problem(&answer, answer.status, "UNAVAILABLE");
    }
}

#[test]
fn what_a_client_says_about_its_address_changes_nothing() {
    let front = Front::start(|options| options.operator_allow = vec!["192.0.2.0/24".to_owned()]);
    let forged = "X-Forwarded-For: 192.0.2.7\r\nX-Real-IP: 192.0.2.7\r\nForwarded: for=192.0.2.7\r\n";
    let answer = front.send("GET", "/units", forged, "");
    assert_eq!(received(&answer, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(received(&answer, "x-real-ip"), ["127.0.0.1"]);
    assert_eq!(received(&answer, "forwarded"), Vec::<String>::new());
    for path in ["/metrics", "/readyz", "/readyz?verbose", "/ops/projections", "/v1/metrics", "/%6detrics", "/x/../metrics"]
    {
        assert_problem(&front.send("GET", path, forged, ""), 403, "FORBIDDEN");
        assert_problem(&front.send("POST", path, forged, ""), 403, "FORBIDDEN");
    }
    assert_eq!(front.get("/livez").status, 200);
}

#[test]
fn an_allowed_address_reaches_the_operator_routes() {
    let front = Front::start(|_| {});
    for path in ["/metrics", "/readyz?verbose", "/ops/projections"] {
        assert_eq!(front.get(path).status, 200, "{path}");
    }
}

#[test]
fn excess_logins_are_refused_and_other_routes_are_not() {
    let front = Front::start(|_| {});
    let answers: Vec<Answer> = (0..20).map(|_| front.send("POST", "/login", "", "{}")).collect();
    let (passed, refused): (Vec<&Answer>, Vec<&Answer>) = answers.iter().partition(|answer| answer.status == 200);
    // One at the rate and a burst of ten; the twenty take less than the six seconds of the next.
    assert_eq!((passed.len(), refused.len()), (11, 9));
    for answer in refused {
        assert_problem(answer, 429, "RATE_LIMITED");
        assert_eq!(answer.header("retry-after"), Some("6"));
    }
    assert_problem(&front.send("POST", "/v1/login", "X-Forwarded-For: 192.0.2.9\r\n", "{}"), 429, "RATE_LIMITED");
    assert_eq!(front.get("/units").status, 200);
}

#[test]
fn the_api_limit_is_a_problem_with_retry_after() {
    let front = Front::start(|options| {
        options.api_rate = "1r/s".to_owned();
        options.api_burst = 3;
    });
    for _ in 0..9 {
        front.get("/units");
    }
    let last = front.get("/units");
    assert_problem(&last, 429, "RATE_LIMITED");
    assert_eq!(last.header("retry-after"), Some("1"));
}

#[test]
fn bodies_over_the_limit_are_refused_and_documents_have_a_larger_one() {
    let front = Front::start(|_| {});
    let body = |kib: usize| "x".repeat(kib * 1024);
    assert_eq!(json(&front.send("POST", "/units", "", &body(64)))["body_bytes"], 64 * 1024);
    assert_problem(&front.send("POST", "/units", "", &body(65)), 413, "PAYLOAD_TOO_LARGE");
    assert_eq!(json(&front.send("POST", "/documents", "", &body(1024)))["body_bytes"], 1024 * 1024);
    assert_problem(&front.send("POST", "/documents/x", "", &body(65)), 413, "PAYLOAD_TOO_LARGE");
    assert_problem(&front.send("POST", "/documents", "Content-Length: 30000000\r\n", ""), 413, "PAYLOAD_TOO_LARGE");
}

#[test]
fn malformed_requests_are_problems() {
    let front = Front::start(|_| {});
    let port = front.nginx.port();
    let long = "x".repeat(9 * 1024);
    assert_problem(&front.get(&format!("/{long}")), 414, "URI_TOO_LONG");
    assert_problem(&front.send("GET", "/units", &format!("X-Long: {long}\r\n"), ""), 431, "HEADERS_TOO_LARGE");
    assert_problem(&request(port, "GET /units HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap(), 400, "VALIDATION_FAILED");
    let smuggled = "POST /units HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_problem(&request(port, smuggled).unwrap(), 400, "VALIDATION_FAILED");
    let twice = "POST /units HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd";
    assert_problem(&request(port, twice).unwrap(), 400, "VALIDATION_FAILED");
    assert_problem(&front.send("TRACE", "/units", "", ""), 405, "METHOD_NOT_ALLOWED");
}

#[test]
fn the_services_own_problems_and_policies_pass_through() {
    let front = Front::start(|_| {});
    let answer = front.get("/own-problem");
    assert_eq!((answer.status, answer.body.as_str()), (404, r#"{"code":"UNIT_NOT_FOUND"}"#));
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.header("content-security-policy"), Some("default-src 'self'"));
    assert_security_headers(&answer);
}

#[test]
fn a_plain_request_id_is_kept_and_a_strange_one_replaced() {
    let front = Front::start(|_| {});
    let kept = front.send("GET", "/units", "X-Request-Id: order-4711.a\r\n", "");
    assert_eq!(received(&kept, "x-request-id"), ["order-4711.a"]);
    assert_eq!(kept.header("x-request-id"), Some("order-4711.a"));
    for strange in ["a\"b-and-quotes", "short", &"x".repeat(65)] {
        let replaced = front.send("GET", "/units", &format!("X-Request-Id: {strange}\r\n"), "");
        let id = replaced.header("x-request-id").expect("an id").to_owned();
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        assert_eq!(received(&replaced, "x-request-id"), [id]);
    }
}

#[test]
fn the_optional_tls_listener_serves_the_same_with_hsts() {
    let keys = tempfile::tempdir().expect("a folder");
    let (certificate, key) = (keys.path().join("chain.pem"), keys.path().join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "1", "-subj", "/CN=casitas.test", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // Nginx reads them as the account that it runs as.
    for path in [keys.path(), &certificate, &key] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("readable");
    }
    let tls_port = free_port().expect("a port");
    let front = Front::start(|options| options.tls = Some((tls_port, certificate, key)));
    assert_eq!(front.get("/units").header("strict-transport-security"), None);
    let plain = request(tls_port, "GET /units HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("an answer");
    assert_problem(&plain, 400, "VALIDATION_FAILED");
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{tls_port}"), "-servername", "casitas.test"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is installed");
    let get = b"GET /units HTTP/1.1\r\nHost: casitas.test\r\nConnection: close\r\n\r\n";
    client.stdin.take().expect("its input").write_all(get).expect("written");
    let answer = client.wait_with_output().expect("an answer").stdout;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\r\nStrict-Transport-Security: max-age=31536000"), "{answer}");
    assert!(answer.contains("x-forwarded-proto: https") || answer.contains("X-Forwarded-Proto: https"), "{answer}");
}
