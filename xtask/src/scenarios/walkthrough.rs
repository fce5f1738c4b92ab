//! The walk-through of the README, with plain HTTP.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::client::{Answer, Http, block, until};
use super::system::System;
use super::world::{self, data, finished};

const REPORT_WITHIN: Duration = Duration::from_secs(60);

/// With the demo data: the README word for word.
pub fn with_demo(system: &System) -> Result<String> {
    let http = system.http()?;
    let caller = demo_login(&http)?;
    let listed = cached_list(&http)?;
    ensure!(listed == 2, "the demo shows {listed} units where two were asked for");
    let all = data(&http.get("/units/available?limit=1000").now()?.success()?)?.len();
    let units = data(&caller.get("/units?limit=1000").now()?.success()?)?.len();
    ensure!(units > all && all > 2, "of {units} units {all} are available: that is no believable portfolio");
    let ledgers = finance_report(&caller)?;
    let leases = legal_report(&caller)?;
    ensure!(ledgers > 0 && leases >= ledgers, "{ledgers} ledgers and {leases} leases in the reports");
    documents(&http)?;
    Ok(format!("{units} units, {all} available, {leases} leases, {ledgers} ledgers; MISS, HIT, 304, CSV and JSON"))
}

/// Without it: nothing there, no known password, and a first administrator by the documented step.
pub fn without_demo(system: &System) -> Result<String> {
    let http = system.http()?;
    http.post("/login", &json!({"username": "test_admin", "password": "password123"}))
        .now()?
        .problem(401, "INVALID_CREDENTIALS")?;
    let empty = data(&http.get("/units/available").now()?.success()?)?;
    ensure!(empty.is_empty(), "an empty store lists {empty:?}");
    let caller = world::admin(system)?;
    let me = caller.get("/auth/me").now()?.success()?.json()?;
    ensure!(me["username"] == world::ADMIN, "who am I? {me}");
    let property = world::property(&caller)?;
    let (unit, position) = world::unit(&caller, &property, "1A")?;
    let seen = data(&http.get("/units/available").after(&position, 5).now()?.success()?)?;
    ensure!(seen.len() == 1 && seen[0]["unit_id"] == unit.as_str(), "the first unit is not listed: {seen:?}");
    world::unit(&caller, &property, "1B")?;
    let (_, position) = world::unit(&caller, &property, "1C")?;
    http.get("/units/available").after(&position, 5).now()?.success()?;
    ensure!(cached_list(&http)? == 2, "two units were asked for");
    ensure!(finance_report(&caller)? == 0, "a ledger out of nothing");
    ensure!(legal_report(&caller)? == 0, "a lease out of nothing");
    nothing_there(system)?;
    Ok("demo password refused, empty list, first admin, first unit, empty reports, no store where none is".to_owned())
}

/// A doctor in the wrong folder finds no store, and makes none.
fn nothing_there(system: &System) -> Result<()> {
    let System::Embedded(embedded) = system else { return Ok(()) };
    let nowhere = embedded.data_dir().join("nowhere");
    let output = std::process::Command::new(embedded.binary()).args(["doctor", "--data-dir"]).arg(&nowhere).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(4) && said.contains("no store"), "doctor ended with {}: {said}", output.status);
    ensure!(!nowhere.exists(), "doctor made a folder");
    Ok(())
}

fn demo_login(http: &Http) -> Result<Http> {
    let answer = http.done("/login", &json!({"username": "test_admin", "password": "password123"}))?;
    let body = answer.json()?;
    let token = body["token"].as_str().with_context(|| format!("no token: {answer}"))?;
    let expected = body["access_token"] == token && body["token_type"] == "Bearer" && body["expires_in"] == 900;
    ensure!(expected, "the login's answer: {answer}");
    Ok(http.with(token))
}

/// MISS, HIT, 304; answers how many were listed.
fn cached_list(http: &Http) -> Result<usize> {
    let path = "/units/available?limit=2";
    let first = http.get(path).now()?.success()?;
    ensure!(first.header("x-cache") == Some("MISS"), "the first GET: {:?}", first.headers);
    let status = first.header("cache-status").unwrap_or_default();
    ensure!(status.starts_with("casitas; fwd=miss; stored; ttl="), "Cache-Status: {status}");
    let (second, _) = block(hit(http, path))?;
    ensure!(second.header("cache-status").unwrap_or_default().starts_with("casitas; hit; ttl="), "{:?}", second.headers);
    ensure!(second.header("age").and_then(|age| age.parse::<u64>().ok()).is_some(), "no Age: {:?}", second.headers);
    ensure!(first.body == second.body, "the cached answer differs");
    let etag = second.header("etag").context("no ETag")?.to_owned();
    ensure!(etag.starts_with("\"u-"), "ETag {etag}");
    let third = http.get(path).header("if-none-match", &etag).now()?;
    ensure!(third.status == 304 && third.body.is_empty(), "{third}");
    let other = http.get(path).header("if-none-match", "\"u-0\"").now()?.expect(200)?;
    ensure!(!other.served_by().is_empty(), "no X-Served-By");
    Ok(data(&second)?.len())
}

/// A further GET that is a HIT, and how many came before the answer had reached the shared cache: it is put there beside the
/// first answer, not before it.
pub async fn hit(http: &Http, path: &str) -> Result<(Answer, usize)> {
    let ask = http.get(path);
    let early = std::cell::Cell::new(0);
    let (ask, count) = (&ask, &early);
    let answer = until(&format!("a HIT of {path}"), Duration::from_secs(1), || async move {
        let answer = ask.send().await?.success()?;
        count.set(count.get() + usize::from(!answer.is_hit()));
        Ok(answer.is_hit().then_some(answer))
    })
    .await?;
    Ok((answer, early.get()))
}

fn finance_report(caller: &Http) -> Result<usize> {
    let path = "/finances/generate_report";
    let body = json!({"month": "2026-10", "format": "csv"});
    let key = format!("\"{}\"", world::fresh("demo"));
    let asked = caller.post(path, &body).key(&key).now()?.expect(202)?;
    let location = asked.header("location").context("no Location")?.to_owned();
    ensure!(location.starts_with("/reports/") && asked.header("retry-after").is_some(), "{:?}", asked.headers);
    let again = caller.post(path, &body).key(&key).now()?.expect(202)?;
    ensure!(again.header("location") == Some(&location), "the repetition made another report: {again}");
    caller
        .post(path, &json!({"month": "2026-09", "format": "csv"}))
        .key(&key)
        .now()?
        .problem(422, "IDEMPOTENCY_KEY_REUSED")?;
    let csv = download(caller, &location, "text/csv")?;
    let rows = csv_rows(&csv.text(), "lease_id,currency,charged,paid,balance,oldest_due")?;
    for row in &rows {
        let [_, currency, charged, paid, balance, oldest] = row.as_slice() else { bail!("a row of {} cells", row.len()) };
        let (charged, paid, balance) = (decimal(charged)?, decimal(paid)?, decimal(balance)?);
        ensure!(charged - paid == balance, "charged {charged} - paid {paid} is not {balance}");
        ensure!(balance <= 0 || !oldest.is_empty(), "{balance} {currency} owed, and nothing is due");
    }
    // The same as JSON, asked for with nothing but the format.
    let location = format!("/reports/{}", world::report(caller, path, &json!({"month": "2026-10", "format": "json"}))?);
    let document = download(caller, &location, "application/json")?.json()?;
    let lines = document["lines"].as_array().context("no lines")?;
    ensure!(lines.len() == rows.len() && document["as_of"] == "2026-10-31", "CSV has {} rows: {document}", rows.len());
    ensure!(
        lines.iter().zip(&rows).all(|(line, row)| line["lease_id"] == row[0].as_str() && line["balance"] == row[4].as_str())
    );
    Ok(rows.len())
}

fn legal_report(caller: &Http) -> Result<usize> {
    let path = "/legal/generate_report";
    let location = format!("/reports/{}", world::report(caller, path, &json!({}))?);
    let csv = download(caller, &location, "text/csv")?;
    let header = "lease_id,property_id,unit_id,tenants,guarantors,state,start_date,end_date,rent,currency,version,terms_hash,\
                  signed_on,activated_on,vacated_on";
    let rows = csv_rows(&csv.text(), header)?;
    let known = ["draft", "sending", "sent", "signed", "active", "terminated", "voided"];
    ensure!(rows.iter().all(|row| known.contains(&row[5].as_str())), "an unknown state in {rows:?}");
    Ok(rows.len())
}

/// Polls the report as the README does, then fetches the result and checks it against its own account.
fn download(caller: &Http, location: &str, media_type: &str) -> Result<Answer> {
    let id = location.strip_prefix("/reports/").unwrap_or(location);
    let report = block(finished(caller, id, REPORT_WITHIN))?;
    ensure!(report["status"] == "succeeded" && report["progress"].is_object(), "{report}");
    let link = report["links"]["result"].as_str().with_context(|| format!("no link: {report}"))?;
    ensure!(link == format!("{location}/result"), "the result is at {link}");
    let result = caller.get(link).now()?.expect(200)?;
    ensure!(result.header("content-type").unwrap_or_default().starts_with(media_type), "{:?}", result.headers);
    let sha256: String = Sha256::digest(&result.body).iter().map(|byte| format!("{byte:02x}")).collect();
    let said = &report["result"];
    ensure!(said["sha256"] == sha256.as_str() && said["size"] == result.body.len(), "{said} of {} bytes", result.body.len());
    Ok(result)
}

/// Rows without the header; no field of these reports holds a comma.
fn csv_rows(text: &str, header: &str) -> Result<Vec<Vec<String>>> {
    let mut lines = text.lines();
    ensure!(lines.next() == Some(header), "the header: {:?}", text.lines().next());
    let columns = header.split(',').count();
    lines
        .map(|line| {
            let cells: Vec<String> = line.split(',').map(str::to_owned).collect();
            ensure!(cells.len() == columns, "{} cells in {line}", cells.len());
            Ok(cells)
        })
        .collect()
}

/// Minor units of an exact decimal.
fn decimal(text: &str) -> Result<i64> {
    let digits: String = text.chars().filter(|character| *character != '.').collect();
    digits.parse().with_context(|| format!("{text:?} is no amount"))
}

/// What is served beside the API.
fn documents(http: &Http) -> Result<()> {
    let document: Value = http.get("/openapi.json").now()?.expect(200)?.json()?;
    ensure!(document["openapi"].as_str().unwrap_or_default().starts_with("3.1"), "OpenAPI {}", document["openapi"]);
    for path in ["/login", "/units/available", "/finances/generate_report", "/legal/generate_report"] {
        ensure!(document["paths"][path].is_object(), "{path} is not in the document");
    }
    let page = http.get("/docs/").now()?.expect(200)?.text();
    ensure!(!page.contains("https://"), "the docs page reaches out: {page}");
    let aliased = http.get("/v1/units/available?limit=1").now()?.expect(200)?;
    ensure!(data(&aliased)?.len() <= 1);
    Ok(())
}
