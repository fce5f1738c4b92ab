//! Bad input: 4xx with a code and a pointer, and nothing written.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::client::{Answer, Http};
use super::dates::day;
use super::system::System;
use super::world::{self, fresh, money};

const SOME: &str = "019b2f6e-7c1a-7e53-9d44-1f0c5a7b2e10";

/// A command with a body that is well-formed, so that each change to it is the one fault.
struct Route {
    method: &'static str,
    /// As in the OpenAPI document.
    template: &'static str,
    body: Value,
    /// Its own limit in bytes.
    limit: usize,
}

fn routes(unit: &str, property: &str) -> Vec<Route> {
    let date = day(3);
    let document = world::document_body(b"content", Some(SOME));
    let route = |method, template, body| Route { method, template, body, limit: 64 * 1024 };
    let mut lease = world::lease_body(unit, SOME, 10, 20);
    lease["clauses"] = json!([{"title": "Pets", "text": "None."}]);
    lease["notice_days"] = json!({"tenant": 30, "landlord": 60});
    let party = json!({"kind": "person", "roles": ["tenant"], "details": {
        "names": {"full": "A B", "given": "A", "family": "B"}, "birth_date": "1990-01-02", "tax_id": "12-345", "emails": ["a@b.example"],
        "phones": ["+1 555 0100"]}});
    let charge = json!({"type": "rent", "money": money(100), "due_on": date, "period": {"from": date, "to": day(9)}, "key": "k", "memo": "m"});
    let payment = json!({"money": money(100), "method": "cash", "received_on": day(0), "external_ref": {"source": "bank", "id": "7"}, "payer": SOME});
    let report = json!({"as_of": day(0), "lease_id": SOME, "format": "csv"});
    let mut all = vec![
        route("POST", "/login", json!({"username": "nobody", "password": "x"})),
        route("POST", "/auth/login", json!({"username": "nobody", "password": "x"})),
        route("POST", "/auth/password", json!({"current_password": "x", "new_password": "another-long-password"})),
        route(
            "POST",
            "/users",
            json!({"username": "u-ser", "email": "a@b.example", "name": "A", "roles": ["units"], "party_id": SOME, "password": world::PASSWORD}),
        ),
        route("POST", "/users/{user_id}/roles", json!({"role": "units", "property_ids": [SOME]})),
        route("DELETE", "/users/{user_id}/roles/{role}", json!({})),
        route("POST", "/users/{user_id}/unlock", json!({})),
        route("POST", "/users/{user_id}/deactivation", json!({})),
        route("POST", "/users/{user_id}/reactivation", json!({})),
        route("POST", "/properties", world::property_body("House", SOME)),
        route(
            "POST",
            "/properties/{property_id}/owners",
            json!({"owners": [{"party_id": SOME, "share_bp": 10_000}], "effective_on": date}),
        ),
        route("POST", "/properties/{property_id}/inactivation", json!({})),
        route("POST", "/units", world::unit_body(property, "X1")),
        route(
            "PATCH",
            "/units/{unit_id}",
            json!({"unit_number": "X2", "bedrooms": 1, "bathrooms": 1.0, "area_m2": 40, "amenities": ["pool"]}),
        ),
        route("POST", "/units/{unit_id}/listing", world::listing_body()),
        route("DELETE", "/units/{unit_id}/listing", json!({})),
        route("POST", "/units/{unit_id}/price", json!({"price": money(5), "effective_on": date})),
        route(
            "POST",
            "/units/{unit_id}/blocks",
            json!({"from": date, "to": day(9), "reason": "repair", "request_id": SOME}),
        ),
        route("DELETE", "/units/{unit_id}/blocks/{block_id}", json!({})),
        route("POST", "/units/{unit_id}/retirement", json!({"reason": "old", "on": date})),
        route("POST", "/units/{unit_id}/reinstatement", json!({})),
        route(
            "POST",
            "/units/{unit_id}/holds",
            json!({"party_id": SOME, "from": date, "to": day(9), "expires_at": "2099-01-01T00:00:00Z"}),
        ),
        route("DELETE", "/units/{unit_id}/holds/{hold_id}", json!({})),
        route("POST", "/parties", party),
        route(
            "PATCH",
            "/parties/{party_id}",
            json!({"roles": ["tenant"], "names": {"full": "A"}, "birth_date": "1990-01-02", "emails": ["a@b.example"]}),
        ),
        route("POST", "/leases", lease.clone()),
        route("PATCH", "/leases/{lease_id}", lease),
        route("POST", "/leases/{lease_id}/send", json!({"document_id": SOME, "signers": [SOME]})),
        route("POST", "/leases/{lease_id}/signatures", world::sign_body(SOME, &"0".repeat(64))),
        route("POST", "/leases/{lease_id}/decline", json!({"party_id": SOME, "reason": "no"})),
        route("POST", "/leases/{lease_id}/void", json!({"reason": "no"})),
        route("POST", "/leases/{lease_id}/activate", json!({"on": date})),
        route("POST", "/leases/{lease_id}/termination", json!({"vacated_on": date})),
        route("POST", "/ledgers/{lease_id}/charges", charge),
        route("POST", "/ledgers/{lease_id}/payments", payment),
        route(
            "POST",
            "/payments/{payment_id}/reversal",
            json!({"lease_id": SOME, "kind": "bounced", "on": date, "fee": money(5)}),
        ),
        route("POST", "/charges/{charge_id}/reversal", json!({"lease_id": SOME, "reason": "no"})),
        route("POST", "/finances/generate_report", report.clone()),
        route("POST", "/legal/generate_report", report),
        route("DELETE", "/reports/{report_id}", json!({})),
    ];
    all.push(Route { method: "POST", template: "/documents", body: document, limit: 20 * 1024 * 1024 });
    all
}

/// Templates whose parameters are read only after the body, or whose body is not reached: none is known.
fn fill(template: &str, unit: &str, property: &str) -> String {
    let filled = template.replace("{unit_id}", unit).replace("{property_id}", property).replace("{role}", "units");
    let ids =
        ["{user_id}", "{block_id}", "{hold_id}", "{party_id}", "{lease_id}", "{payment_id}", "{charge_id}", "{report_id}"];
    ids.iter().fold(filled, |path, id| path.replace(id, SOME))
}

struct Judge {
    tries: usize,
    wrong: Vec<String>,
}

impl Judge {
    /// 400 `VALIDATION_FAILED` that points at (or above) the field.
    fn invalid(&mut self, what: &str, answer: Result<Answer>, pointer: Option<&str>) -> Result<()> {
        let answer = answer?;
        self.tries += 1;
        let outcome = answer.problem(400, "VALIDATION_FAILED").and_then(|problem| {
            let pointers: Vec<&str> =
                problem["errors"].as_array().into_iter().flatten().filter_map(|error| error["pointer"].as_str()).collect();
            match pointer {
                None => Ok(()),
                Some(wanted) => {
                    // At the field, at what is in it, or at what it is in; the body as a whole is too vague.
                    let within = |inner: &str, outer: &str| inner.starts_with(&format!("{}/", outer.trim_end_matches('/')));
                    let near =
                        |found: &str| found == wanted || within(found, wanted) || !found.is_empty() && within(wanted, found);
                    ensure!(pointers.iter().any(|found| near(found)), "points at {pointers:?} instead of {wanted}");
                    Ok(())
                }
            }
        });
        if let Err(error) = outcome {
            self.wrong.push(format!("{what}: {error:#} ({answer})"));
        }
        Ok(())
    }

    fn refused(&mut self, what: &str, answer: Result<Answer>, status: u16, code: &str) -> Result<()> {
        let answer = answer?;
        self.tries += 1;
        if let Err(error) = answer.problem(status, code) {
            self.wrong.push(format!("{what}: {error:#}"));
        }
        Ok(())
    }
}

pub fn table(system: &System) -> Result<String> {
    let admin = world::admin(system)?;
    let property = world::property(&admin)?;
    let (unit, position) = world::unit(&admin, &property, &fresh("I"))?;
    admin.get("/units").after(&position, 10).now()?.success()?;
    let routes = routes(&unit, &property);
    all_listed(&admin, &routes)?;
    system.caught_up()?;
    let before = system.heads()?;
    let mut judge = Judge { tries: 0, wrong: Vec::new() };
    for route in &routes {
        bodies(&admin, route, &fill(route.template, &unit, &property), &mut judge)?;
        ids(&admin, route, &fill(route.template, &unit, &property), &mut judge)?;
    }
    queries(&admin, &unit, &mut judge)?;
    let after = system.heads()?;
    let shown = judge.wrong.iter().take(15).cloned().collect::<Vec<_>>().join("\n");
    ensure!(judge.wrong.is_empty(), "{} of {} answers are wrong:\n{shown}", judge.wrong.len(), judge.tries);
    ensure!(before == after, "bad input was written: {before:?} became {after:?}");
    Ok(format!("{} bad requests to {} command routes and the lists: all 4xx problems, 0 events", judge.tries, routes.len()))
}

fn all_listed(http: &Http, routes: &[Route]) -> Result<()> {
    let document = http.get("/openapi.json").now()?.success()?.json()?;
    let paths = document["paths"].as_object().context("no paths")?;
    let described: BTreeSet<String> = paths
        .iter()
        .flat_map(|(path, item)| {
            let commands = ["post", "put", "patch", "delete"].iter().filter(|method| item[**method].is_object());
            commands.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let ours: BTreeSet<String> = routes.iter().map(|route| format!("{} {}", route.method, route.template)).collect();
    let missing: Vec<_> = described.symmetric_difference(&ours).collect();
    ensure!(missing.is_empty(), "routes in one of document and table only: {missing:?}");
    Ok(())
}

fn bodies(admin: &Http, route: &Route, path: &str, judge: &mut Judge) -> Result<()> {
    let what = |fault: &str| format!("{} {}: {fault}", route.method, route.template);
    let send = |body: &Value| admin.request(route.method, path).json(body).now();
    let raw = |kind: &str, body: &[u8]| admin.request(route.method, path).raw(kind, body.to_vec()).now();
    let text = route.body.to_string();
    // Unknown fields, in the body and in every object inside it.
    for at in objects(&route.body, "") {
        let mut body = route.body.clone();
        if let Some(object) = body.pointer_mut(&at) {
            object["zz"] = json!(1);
        }
        judge.invalid(&what(&format!("unknown field {at}/zz")), send(&body), Some(&format!("{at}/zz")))?;
    }
    for (at, leaf) in leaves(&route.body, "") {
        for (fault, value) in faults(&at, &leaf) {
            let mut body = route.body.clone();
            if let Some(place) = body.pointer_mut(&at) {
                *place = value.clone();
            }
            judge.invalid(&what(&format!("{fault} at {at}: {value}")), send(&body), Some(&at))?;
        }
    }
    for (fault, bytes) in [
        ("broken JSON", &b"{\"a\":"[..]),
        ("trailing text", format!("{text} x").as_bytes()),
        ("an array", b"[]"),
        ("a text", b"\"x\""),
        ("no UTF-8", b"{\"\xff\":1}"),
        ("deep nesting", "[".repeat(10_000).as_bytes()),
    ] {
        judge.invalid(&what(fault), raw("application/json", bytes), None)?;
    }
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/xml"] {
        judge.refused(&what(kind), raw(kind, text.as_bytes()), 415, "UNSUPPORTED_MEDIA_TYPE")?;
    }
    let mut large = text.clone().into_bytes();
    large.resize(route.limit + 4_096, b' ');
    judge.refused(&what("a body over the limit"), raw("application/json", &large), 413, "PAYLOAD_TOO_LARGE")?;
    if !route.template.contains("login") {
        for key in ["", "\"\"", &"k".repeat(201)] {
            let answer = admin.request(route.method, path).json(&json!({"zz": 1})).key(key).now();
            judge.invalid(&what("a bad Idempotency-Key"), answer, Some("/header/idempotency-key"))?;
        }
    }
    Ok(())
}

fn ids(admin: &Http, route: &Route, filled: &str, judge: &mut Judge) -> Result<()> {
    for (at, segment) in route.template.split('/').enumerate().filter(|(_, segment)| segment.starts_with('{')) {
        for bad in ["not-a-uuid", "1", "019b2f6e-7c1a-7e53-9d44-1f0c5a7b2e1", "%00"] {
            let path: Vec<&str> =
                filled.split('/').enumerate().map(|(place, part)| if place == at { bad } else { part }).collect();
            let answer = admin.request(route.method, &path.join("/")).json(&route.body).now();
            // Nginx itself refuses a NUL, and knows no fields.
            let pointer = (bad != "%00").then_some("/path");
            judge.invalid(&format!("{} {}: {segment} = {bad}", route.method, route.template), answer, pointer)?;
        }
    }
    Ok(())
}

fn objects(value: &Value, at: &str) -> Vec<String> {
    let inner = |(name, value): (String, &Value)| objects(value, &format!("{at}/{name}"));
    match value {
        Value::Object(fields) => {
            let below = fields.iter().flat_map(|(name, value)| inner((name.clone(), value)));
            std::iter::once(at.to_owned()).chain(below).collect()
        }
        Value::Array(items) => {
            items.iter().enumerate().flat_map(|(place, value)| inner((place.to_string(), value))).collect()
        }
        _ => Vec::new(),
    }
}

/// Every place below the root, with what stands there.
fn leaves(value: &Value, at: &str) -> Vec<(String, Value)> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(place, value)| (place.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    let mut found = Vec::new();
    for (name, child) in children {
        let place = format!("{at}/{name}");
        if !child.is_null() {
            found.push((place.clone(), child.clone()));
        }
        found.extend(leaves(child, &place));
    }
    found
}

/// What is wrong for a value in this place.
fn faults(at: &str, value: &Value) -> Vec<(&'static str, Value)> {
    let mut faults = Vec::new();
    match value {
        Value::String(text) => {
            faults.extend([("a number", json!(17)), ("an object", json!({"a": 1})), ("true", json!(true))]);
            if is_date(text) {
                for bad in ["2026-02-30", "2026-13-01", "2026-2-3", "30/02/2026", "tomorrow", "", "99999-01-01"] {
                    faults.push(("an impossible date", json!(bad)));
                }
            }
            if text.len() > 19 && text.contains('T') && text.ends_with('Z') {
                for bad in ["2026-02-30T00:00:00Z", "2026-02-03", "2026-02-03T25:00:00Z", "soon"] {
                    faults.push(("an impossible instant", json!(bad)));
                }
            }
            if text == SOME {
                for bad in ["not-a-uuid", "", "019b2f6e"] {
                    faults.push(("no UUID", json!(bad)));
                }
            }
            if at.ends_with("/currency") {
                faults.extend(["usd", "XXX1", "", "ZZZ"].map(|bad| ("no currency", json!(bad))));
            }
        }
        Value::Number(_) => {
            faults.extend([("a text", json!("17")), ("an object", json!({"a": 1})), ("a negative half", json!(-0.25))]);
            if at.ends_with("/amount") {
                faults.extend([("a float", json!(1.5)), ("a whole float", json!(100.0)), ("too much", json!(1e30))]);
            }
        }
        Value::Array(_) => {
            faults.extend([("a text", json!("x")), ("an object", json!({"a": 1})), ("a list of lists", json!([[]]))])
        }
        Value::Object(_) => faults.extend([("a text", json!("x")), ("a number", json!(3))]),
        Value::Bool(_) => faults.push(("a text", json!("true"))),
        Value::Null => {}
    }
    faults
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-'
}

/// Bad parameters of reads.
fn queries(admin: &Http, unit: &str, judge: &mut Judge) -> Result<()> {
    let lists: BTreeMap<&str, &[&str]> = BTreeMap::from([
        (
            "/units/available",
            &[
                "from=2026-02-30",
                "min_price=1.5",
                "min_price=x",
                "bathrooms=x",
                "amenities=castle",
                "property_id=x",
                "from=2026-03-02&to=2026-03-01",
            ][..],
        ),
        ("/units", &["property_id=x", "listed=maybe", "occupancy=haunted", "as_of=0000-01-01", "as_of=2026-02-30"][..]),
        ("/properties", &["as_of=yesterday", "status=gone"][..]),
        ("/leases", &["status=gone", "unit_id=x", "ending_before=2026-02-30"][..]),
        ("/parties", &[][..]),
        ("/users", &["role=emperor"][..]),
        ("/reports", &["status=gone", "requested_by=x"][..]),
    ]);
    for (path, own) in lists {
        let common = ["zz=1", "limit=0", "limit=1001", "limit=-1", "limit=x", "cursor=zz", "limit=1&limit=2", "cursor=%00"];
        for query in common.iter().chain(own) {
            let answer = admin.get(&format!("{path}?{query}")).now();
            judge.invalid(&format!("GET {path}?{query}"), answer, Some("/query/"))?;
        }
    }
    for path in [format!("/units/{unit}?as_of=2026-02-30"), format!("/units/{unit}/calendar?from=x")] {
        judge.invalid(&path, admin.get(&path).now(), Some("/query/"))?;
    }
    for path in ["/units/not-a-uuid", "/leases/1", "/ledgers/x/entries", "/reports/x/result", "/parties/%00"] {
        let pointer = (!path.contains("%00")).then_some("/path");
        judge.invalid(path, admin.get(path).now(), pointer)?;
    }
    for position in ["units", "units:x", "moon:1", "units:-1", "units:1@x"] {
        let answer = admin.get("/units").header("casitas-min-position", position).now();
        judge.invalid(&format!("casitas-min-position {position}"), answer, Some("/header/casitas-min-position"))?;
    }
    judge.refused("an unknown path", admin.get("/castles").now(), 404, "NOT_FOUND")?;
    judge.refused("an unknown method", admin.request("PUT", "/units").json(&json!({})).now(), 405, "METHOD_NOT_ALLOWED")?;
    Ok(())
}
