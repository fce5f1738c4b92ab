//! Who may call what: the matrix of domain.md 2.4 against every route of the OpenAPI document, and tokens that are none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::client::{Answer, Http, block, until};
use super::system::System;
use super::tokens;
use super::world::{self, SETTLES_WITHIN, data, finished, fresh};

const ROLES: [&str; 6] = ["admin", "finance", "legal", "units", "tenant", "auditor"];

/// domain.md 2.4, as far as this API has it; one row for each kind of report.
const MATRIX: &str = "
    users      | W | – | – | – | –        | R
    properties | W | R | R | W | –        | R
    parties    | W | M | W | M | o        | M
    leases     | W | R | W | R | o (sign) | R
    ledgers    | W | W | R | – | o (R)    | R
    finance    | W | W | – | – | –        | R
    legal      | W | – | W | – | –        | R
";

/// Capability, what is needed of it, method, path. A route that is not here fails, and so does a line without its route.
const ROUTES: &str = "
    public     | -       | POST   | /login
    public     | -       | POST   | /auth/login
    public     | -       | GET    | /units/available
    anybody    | write   | POST   | /auth/password
    anybody    | read    | GET    | /auth/me
    users      | write   | POST   | /users
    users      | write   | POST   | /users/{user_id}/roles
    users      | write   | DELETE | /users/{user_id}/roles/{role}
    users      | write   | POST   | /users/{user_id}/unlock
    users      | write   | POST   | /users/{user_id}/deactivation
    users      | write   | POST   | /users/{user_id}/reactivation
    users      | read    | GET    | /users
    users      | read    | GET    | /users/{user_id}
    properties | write   | POST   | /properties
    properties | write   | POST   | /properties/{property_id}/owners
    properties | write   | POST   | /properties/{property_id}/inactivation
    properties | write   | POST   | /units
    properties | write   | PATCH  | /units/{unit_id}
    properties | write   | POST   | /units/{unit_id}/listing
    properties | write   | DELETE | /units/{unit_id}/listing
    properties | write   | POST   | /units/{unit_id}/price
    properties | write   | POST   | /units/{unit_id}/blocks
    properties | write   | DELETE | /units/{unit_id}/blocks/{block_id}
    properties | write   | POST   | /units/{unit_id}/retirement
    properties | write   | POST   | /units/{unit_id}/reinstatement
    properties | write   | POST   | /units/{unit_id}/holds
    properties | write   | DELETE | /units/{unit_id}/holds/{hold_id}
    properties | read    | GET    | /properties
    properties | read    | GET    | /properties/{property_id}
    properties | read    | GET    | /units
    properties | read    | GET    | /units/{unit_id}
    properties | read    | GET    | /units/{unit_id}/calendar
    parties    | write   | POST   | /parties
    parties    | write   | PATCH  | /parties/{party_id}
    parties    | read    | GET    | /parties
    parties    | own     | GET    | /parties/{party_id}
    leases     | write   | POST   | /leases
    leases     | write   | PATCH  | /leases/{lease_id}
    leases     | write   | POST   | /leases/{lease_id}/send
    leases     | sign    | POST   | /leases/{lease_id}/signatures
    leases     | sign    | POST   | /leases/{lease_id}/decline
    leases     | write   | POST   | /leases/{lease_id}/void
    leases     | write   | POST   | /leases/{lease_id}/activate
    leases     | write   | POST   | /leases/{lease_id}/termination
    leases     | write   | POST   | /documents
    leases     | read    | GET    | /leases
    leases     | own     | GET    | /leases/{lease_id}
    leases     | own     | GET    | /documents/{document_id}
    leases     | own     | GET    | /documents/{document_id}/content
    leases     | staff   | GET    | /processes
    ledgers    | write   | POST   | /ledgers/{lease_id}/charges
    ledgers    | write   | POST   | /ledgers/{lease_id}/payments
    ledgers    | write   | POST   | /payments/{payment_id}/reversal
    ledgers    | write   | POST   | /charges/{charge_id}/reversal
    ledgers    | own     | GET    | /ledgers/{lease_id}
    ledgers    | own     | GET    | /ledgers/{lease_id}/statement
    ledgers    | own     | GET    | /ledgers/{lease_id}/entries
    ledgers    | own     | GET    | /ledgers/{lease_id}/charges
    ledgers    | own     | GET    | /ledgers/{lease_id}/payments
    finance    | write   | POST   | /finances/generate_report
    legal      | write   | POST   | /legal/generate_report
    reports    | read    | GET    | /reports
    reports    | kind    | GET    | /reports/{report_id}
    reports    | kind    | GET    | /reports/{report_id}/result
    reports    | cancel  | DELETE | /reports/{report_id}
";

fn table(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// What a role has of a capability: the cell's first letter, `-` for none.
fn cell(capability: &str, role: &str) -> Result<char> {
    let column = ROLES.iter().position(|name| *name == role).context("an unknown role")? + 1;
    let row = table(MATRIX).into_iter().find(|row| row[0] == capability).with_context(|| format!("no row {capability}"))?;
    Ok(match row[column].as_str() {
        "–" => '-',
        "o (sign)" => 's',
        text => text.chars().next().context("an empty cell")?,
    })
}

/// One tenant's things.
struct Case {
    party: String,
    lease: String,
    document: String,
    sha256: String,
}

struct Things {
    property: String,
    unit: String,
    own: Case,
    foreign: Case,
    finance_report: String,
    legal_report: String,
    /// The e-mail address of the foreign party: who sees parties masked does not see it.
    secret: String,
}

fn things(admin: &Http) -> Result<Things> {
    let property = world::property(admin)?;
    let (unit, _) = world::unit(admin, &property, &fresh("A"))?;
    let (_, own) = case(admin, &unit, 10)?;
    let (secret, foreign) = case(admin, &unit, 100)?;
    let finance_report = world::report(admin, "/finances/generate_report", &json!({}))?;
    let legal_report = world::report(admin, "/legal/generate_report", &json!({}))?;
    for report in [&finance_report, &legal_report] {
        let body = block(finished(admin, report, Duration::from_secs(60)))?;
        ensure!(body["status"] == "succeeded", "{body}");
    }
    Ok(Things { property, unit, own, foreign, finance_report, legal_report, secret })
}

/// A lease that is sent and signed, so that it has a ledger; and its tenant's e-mail address.
fn case(admin: &Http, unit: &str, from: i64) -> Result<(String, Case)> {
    let name = fresh("tenant");
    let secret = format!("{name}@example.com");
    let party = world::party(admin, &name)?;
    let lease = world::lease(admin, &world::lease_body(unit, &party, from, from + 30))?;
    let (document, sha256) = world::document(admin, Some(&lease))?;
    let (state, code) = block(world::send_lease(admin, &lease, &world::send_body(&document, &party)))?;
    ensure!(state == "sent", "{state} {code}");
    admin.done(&format!("/leases/{lease}/signatures"), &world::sign_body(&party, &sha256))?;
    let ledger = admin.get(&format!("/ledgers/{lease}"));
    let ledger = &ledger;
    block(until(
        "the lease's ledger",
        SETTLES_WITHIN,
        || async move { Ok((ledger.send().await?.status == 200).then_some(())) },
    ))?;
    Ok((secret, Case { party, lease, document, sha256 }))
}

/// Every route x every role x own or foreign.
pub fn matrix(system: &System) -> Result<String> {
    let admin = world::admin(system)?;
    let routes = table(ROUTES);
    listed(&admin, &routes)?;
    let things = things(&admin)?;
    let mut callers: BTreeMap<&str, Http> = BTreeMap::new();
    for role in ROLES {
        let party = (role == "tenant").then_some(things.own.party.as_str());
        callers.insert(role, world::user(&admin, &[role], party)?.0);
    }
    let nobody = admin.anonymous();
    let (mut cells, mut wrong) = (0, Vec::new());
    for route in &routes {
        let [capability, need, method, path] = route.as_slice() else { bail!("a line of ROUTES: {route:?}") };
        let anonymous = probe(&nobody, method, path, &things, Side::Own)?;
        let welcome: &[u16] = if capability == "public" { &[200, 400] } else { &[401] };
        cells += 1;
        if !welcome.contains(&anonymous.status) {
            wrong.push(format!("nobody: {anonymous}"));
        }
        for role in ROLES {
            for side in [Side::Own, Side::Foreign] {
                let expected = expected(capability, need, role, side, method)?;
                let answer = probe(&callers[role], method, path, &things, side)?;
                cells += 1;
                if !expected.contains(&answer.status) {
                    wrong.push(format!("{role} ({side:?}) expected {expected:?}: {answer}"));
                }
                if answer.status >= 400 && answer.any_problem().is_err() {
                    wrong.push(format!("{role}: no problem document: {answer}"));
                }
            }
        }
    }
    cells += fields(&callers, &things, &mut wrong)?;
    cells += signing(&admin, &callers["tenant"], &things, &mut wrong)?;
    let shown = wrong.iter().take(12).cloned().collect::<Vec<_>>().join("\n");
    ensure!(wrong.is_empty(), "{} of {cells} cells are wrong:\n{shown}", wrong.len());
    Ok(format!(
        "{cells} of {cells} cells: {} routes x {} roles and nobody x own, foreign, fields",
        routes.len(),
        ROLES.len()
    ))
}

/// The document and the table name the same routes.
fn listed(http: &Http, routes: &[Vec<String>]) -> Result<()> {
    let document = http.get("/openapi.json").now()?.success()?.json()?;
    let paths = document["paths"].as_object().context("no paths")?;
    let methods = ["get", "post", "put", "patch", "delete"];
    let described: BTreeSet<String> = paths
        .iter()
        .flat_map(|(path, item)| {
            let named = methods.iter().filter(|method| item[**method].is_object());
            named.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let ours: BTreeSet<String> = routes.iter().map(|route| format!("{} {}", route[2], route[3])).collect();
    let unlisted: Vec<_> = described.difference(&ours).collect();
    let gone: Vec<_> = ours.difference(&described).collect();
    ensure!(unlisted.is_empty() && gone.is_empty(), "routes without a line: {unlisted:?}; lines without a route: {gone:?}");
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Own,
    Foreign,
}

/// The statuses of a call that changes nothing: commands are sent a body with an unknown field, which is looked at only
/// after the caller was let in.
fn expected(capability: &str, need: &str, role: &str, side: Side, method: &str) -> Result<&'static [u16]> {
    const IN: &[u16] = &[200];
    const IN_BUT_BAD: &[u16] = &[400];
    const FORBIDDEN: &[u16] = &[403];
    const HIDDEN: &[u16] = &[404];
    let welcome = if method == "GET" { IN } else { IN_BUT_BAD };
    if capability == "public" || capability == "anybody" {
        return Ok(welcome);
    }
    if capability == "reports" {
        // Side::Own is a finance report here, Side::Foreign a legal one.
        let (finance, legal) = (cell("finance", role)?, cell("legal", role)?);
        let this = if side == Side::Own { finance } else { legal };
        return Ok(match (need, finance, legal, this) {
            (_, '-', '-', _) => FORBIDDEN,
            ("read", ..) => IN,
            ("kind", _, _, '-') | ("cancel", _, _, '-') => HIDDEN,
            ("kind", ..) => IN,
            ("cancel", _, _, 'W') => &[409],
            ("cancel", ..) => FORBIDDEN,
            _ => bail!("an unknown need {need}"),
        });
    }
    Ok(match (need, cell(capability, role)?) {
        (_, 'W') => welcome,
        ("read" | "own" | "staff", 'R' | 'M') => welcome,
        ("read", 'o' | 's') => welcome,
        ("own", 'o' | 's') if side == Side::Own => welcome,
        ("own", 'o' | 's') => HIDDEN,
        ("sign", 's') => welcome,
        _ => FORBIDDEN,
    })
}

fn probe(caller: &Http, method: &str, path: &str, things: &Things, side: Side) -> Result<Answer> {
    let case = if side == Side::Own { &things.own } else { &things.foreign };
    let report = if side == Side::Own { &things.finance_report } else { &things.legal_report };
    let some = "019b2f6e-7c1a-7e53-9d44-1f0c5a7b2e10";
    let me = match caller.token() {
        Some(token) => tokens::subject(token)?,
        None => some.to_owned(),
    };
    let path = path
        .replace("{property_id}", &things.property)
        .replace("{unit_id}", &things.unit)
        .replace("{party_id}", &case.party)
        .replace("{lease_id}", &case.lease)
        .replace("{document_id}", &case.document)
        .replace("{report_id}", report)
        .replace("{user_id}", &me)
        .replace("{role}", "units");
    let path =
        ["{block_id}", "{hold_id}", "{payment_id}", "{charge_id}"].iter().fold(path, |path, id| path.replace(id, some));
    ensure!(!path.contains('{'), "{path} has a parameter that nobody fills");
    let ask = caller.request(method, &path);
    match method {
        "GET" => ask.now(),
        // Cancelling is judged by the kind of the report, after the body.
        "DELETE" if path.starts_with("/reports/") => ask.now(),
        _ => ask.json(&json!({"zz": true})).now(),
    }
}

/// What is inside: lists of tenants hold their own only, masked readers see no personal field.
fn fields(callers: &BTreeMap<&str, Http>, things: &Things, wrong: &mut Vec<String>) -> Result<usize> {
    let mut cells = 0;
    let mut judge = |holds: bool, text: String| {
        cells += 1;
        if !holds {
            wrong.push(text);
        }
    };
    let tenant = &callers["tenant"];
    let leases = data(&tenant.get("/leases").now()?.success()?)?;
    judge(leases.len() == 1 && leases[0]["lease_id"] == things.own.lease.as_str(), format!("a tenant's leases: {leases:?}"));
    let parties = data(&tenant.get("/parties").now()?.success()?)?;
    judge(
        parties.len() == 1 && parties[0]["party_id"] == things.own.party.as_str(),
        format!("a tenant's parties: {parties:?}"),
    );
    let other = tenant.get(&format!("/leases?party_id={}", things.foreign.party)).now()?;
    judge(other.status == 404, format!("a tenant asks for another's leases: {other}"));
    for role in ROLES {
        let letter = cell("parties", role)?;
        if letter == 'o' {
            continue;
        }
        let one = callers[role].get(&format!("/parties/{}", things.foreign.party)).now()?.success()?;
        let all = callers[role].get("/parties?limit=1000").now()?.success()?;
        for answer in [one, all] {
            let shows = answer.text().contains(&things.secret);
            judge(shows == (letter == 'W'), format!("{role} (`{letter}` on parties): {answer}"));
        }
    }
    Ok(cells)
}

/// A tenant acts on the lease that names them, and sees no other.
fn signing(admin: &Http, tenant: &Http, things: &Things, wrong: &mut Vec<String>) -> Result<usize> {
    let lease = world::lease(admin, &world::lease_body(&things.unit, &things.own.party, 200, 220))?;
    let (state, code) = block(world::send_lease(admin, &lease, &world::send_body(&things.own.document, &things.own.party)))?;
    ensure!(state == "sent", "{state} {code}");
    let own = world::sign_body(&things.own.party, &things.own.sha256);
    let foreign = world::sign_body(&things.foreign.party, &things.foreign.sha256);
    let decline = json!({"party_id": things.foreign.party, "reason": "no"});
    let tries: [(&str, &str, &Value, u16); 5] = [
        (&things.foreign.lease, "signatures", &foreign, 404),
        (&things.foreign.lease, "signatures", &own, 404),
        (&things.foreign.lease, "decline", &decline, 404),
        (&lease, "signatures", &foreign, 404),
        (&lease, "signatures", &own, 200),
    ];
    for (lease, verb, body, status) in tries {
        let answer = tenant.post(&format!("/leases/{lease}/{verb}"), body).now()?;
        if answer.status != status {
            wrong.push(format!("a tenant's {verb}, expected {status}: {answer}"));
        }
    }
    Ok(tries.len())
}

/// Where tokens are judged: the front door, and each process behind it.
fn judges(system: &System) -> Vec<(String, &'static str, String)> {
    let mut judges =
        vec![("front, read".to_owned(), "GET", system.url()), ("front, command".to_owned(), "POST", system.url())];
    if let System::Distributed(stack) = system {
        for role in &stack.roles {
            let method = match role.name() {
                "command-api" => "POST",
                "query-1" | "query-2" => "GET",
                _ => continue,
            };
            judges.push((role.name().to_owned(), method, format!("http://127.0.0.1:{}", role.port())));
        }
    }
    judges
}

/// 401 for each forged token at each process; the control, made the same way with the right key, is let in.
pub fn forged_tokens(system: &System) -> Result<String> {
    let admin = world::admin(system)?;
    let token = admin.token().context("not logged in")?;
    let corpus = tokens::corpus(token, &system.secret("jwt.pem")?, &system.secret("jwks.json")?)?;
    let mut wrong = Vec::new();
    let judges = judges(system);
    for (place, method, url) in &judges {
        let try_token = |token: &str| {
            let caller = admin.at(url).with(token);
            match *method {
                "GET" => caller.get("/auth/me").now(),
                _ => caller.post("/properties", &json!({"zz": 1})).now(),
            }
        };
        let control = try_token(&corpus.control)?;
        ensure!([200, 400].contains(&control.status), "{place}: the control is not let in: {control}");
        for (name, token) in &corpus.forged {
            let answer = try_token(token)?;
            if answer.problem(401, "UNAUTHENTICATED").is_err() {
                wrong.push(format!("{place}: {name}: {answer}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{} accepted or misjudged: {wrong:?}", wrong.len());
    ensure!(corpus.forged.len() >= 25, "only {} forgeries", corpus.forged.len());
    Ok(format!("{} forgeries at {} places: 0 accepted", corpus.forged.len(), judges.len()))
}

/// From the answer on: no command, and no read but within the time that replicas need to hear of it.
pub fn deactivation(system: &System) -> Result<String> {
    let admin = world::admin(system)?;
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        let (user, id) = world::user(&admin, &["units"], None)?;
        user.post("/properties", &json!({"zz": 1})).now()?.problem(400, "VALIDATION_FAILED")?;
        admin.done(&format!("/users/{id}/deactivation"), &json!({}))?;
        let since = Instant::now();
        user.post("/properties", &json!({"zz": 1})).now()?.problem(401, "UNAUTHENTICATED")?;
        let read = user.get("/units");
        let read = &read;
        block(until("reads being closed to a deactivated user", Duration::from_secs(1), || async move {
            // Twice in a row: by both replicas.
            let answers = [read.send().await?, read.send().await?];
            Ok(answers.iter().all(|answer| answer.status == 401).then_some(()))
        }))?;
        slowest = slowest.max(since.elapsed());
        user.get("/auth/me").now()?.problem(401, "UNAUTHENTICATED")?;
        admin.done(&format!("/users/{id}/reactivation"), &json!({}))?;
        user.post("/properties", &json!({"zz": 1})).now()?.problem(401, "UNAUTHENTICATED")?;
    }
    Ok(format!(
        "commands at once; reads on every replica within {} ms (bound 1 s); the old token stays dead",
        slowest.as_millis()
    ))
}
