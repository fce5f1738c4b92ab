//! What scenarios need to be there before they begin, made through the API as a client would.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::client::{Answer, Http, block, until};
use super::dates::day;
use super::system::System;
use crate::net::random_u64;

pub const ADMIN: &str = "chief";
pub const PASSWORD: &str = "correct-horse-battery-staple";
/// How long what follows from a command may take to be seen.
pub const SETTLES_WITHIN: Duration = Duration::from_secs(30);

/// A name that no other scenario uses.
pub fn fresh(prefix: &str) -> String {
    format!("{prefix}-{:012x}", random_u64() & 0xffff_ffff_ffff)
}

pub fn log_in(http: &Http, username: &str, password: &str) -> Result<Http> {
    let answer = http.anonymous().done("/login", &json!({"username": username, "password": password}))?;
    let body = answer.json()?;
    let token = body["token"].as_str().with_context(|| format!("no token: {answer}"))?;
    Ok(http.with(token))
}

/// Logs in as the first administrator, made by the documented step if not there yet.
pub fn admin(system: &System) -> Result<Http> {
    let added = system.casitas(&["users", "add", ADMIN, "--role", "admin"], &format!("{PASSWORD}\n"))?;
    let said = String::from_utf8_lossy(&added.stderr).into_owned();
    ensure!(added.status.success() || said.contains("taken"), "casitas users add: {said}");
    log_in(&system.http()?, ADMIN, PASSWORD)
}

/// A user with these roles, logged in, and their id.
pub fn user(admin: &Http, roles: &[&str], party: Option<&str>) -> Result<(Http, String)> {
    let name = fresh("user");
    let body = json!({"username": name, "email": format!("{name}@example.com"), "name": name, "roles": roles,
        "party_id": party, "password": PASSWORD});
    let made = admin.done("/users", &body)?;
    let caller = log_in(admin, &name, PASSWORD)?;
    // Reads know the user a moment later than commands do.
    let known = caller.get("/auth/me");
    let known = &known;
    block(until("the new user is known to reads", SETTLES_WITHIN, || async move {
        Ok((known.send().await?.status == 200).then_some(()))
    }))?;
    Ok((caller, made.id()?))
}

pub fn property_body(name: &str, owner: &str) -> Value {
    json!({
        "name": name, "type": "apartment_building",
        "address": {"line1": "1 Test Street", "city": "Testville", "postal_code": "10001", "country": "US"},
        "time_zone": "Etc/UTC", "currency": "USD", "jurisdiction": "US-NY",
        "owners": [{"party_id": owner, "share_bp": 10_000}],
    })
}

pub fn property(admin: &Http) -> Result<String> {
    let owner = party(admin, &fresh("Owner"))?;
    admin.done("/properties", &property_body(&fresh("House"), &owner))?.id()
}

pub fn unit_body(property: &str, number: &str) -> Value {
    json!({"property_id": property, "unit_number": number, "bedrooms": 2, "bathrooms": 1.5, "area_m2": 50,
        "amenities": ["balcony", "parking"]})
}

pub fn money(amount: i64) -> Value {
    json!({"amount": amount, "currency": "USD"})
}

pub fn listing_body() -> Value {
    json!({"price": money(150_000), "deposit": money(150_000), "available_from": day(-1), "min_term_months": 1})
}

/// A listed unit; the position at which reads see it.
pub fn unit(admin: &Http, property: &str, number: &str) -> Result<(String, String)> {
    let id = admin.done("/units", &unit_body(property, number))?.id()?;
    let listed = admin.done(&format!("/units/{id}/listing"), &listing_body())?;
    Ok((id, listed.position()?))
}

pub fn party_body(name: &str) -> Value {
    json!({"kind": "person", "roles": ["tenant"], "details": {"names": {"full": name}, "emails": [format!("{}@example.com",
        name.to_lowercase().replace(' ', "."))]}})
}

pub fn party(admin: &Http, name: &str) -> Result<String> {
    admin.done("/parties", &party_body(name))?.id()
}

pub fn document_body(content: &[u8], lease: Option<&str>) -> Value {
    let sha256: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    json!({"kind": "lease_agreement", "media_type": "application/pdf", "sha256": sha256,
        "content": STANDARD.encode(content), "lease_id": lease})
}

/// A stored document: its id and hash.
pub fn document(admin: &Http, lease: Option<&str>) -> Result<(String, String)> {
    let body = document_body(fresh("agreement").as_bytes(), lease);
    let sha256 = body["sha256"].as_str().unwrap_or_default().to_owned();
    Ok((admin.done("/documents", &body)?.id()?, sha256))
}

/// Terms from `from_day` to `to_day` (days from today, inclusive), with a deposit.
pub fn lease_body(unit: &str, party: &str, from_day: i64, to_day: i64) -> Value {
    json!({
        "unit_id": unit, "tenants": [{"party_id": party}], "start_date": day(from_day), "end_date": day(to_day),
        "term_type": "fixed", "rent": {"money": money(150_000), "frequency": "monthly", "due_day": 1},
        "deposit": {"money": money(150_000), "due_on": day(from_day), "held_by": "landlord"},
    })
}

pub fn lease(admin: &Http, body: &Value) -> Result<String> {
    admin.done("/leases", body)?.id()
}

pub fn send_body(document: &str, party: &str) -> Value {
    json!({"document_id": document, "signers": [party]})
}

pub fn sign_body(party: &str, sha256: &str) -> Value {
    json!({"party_id": party, "document_sha256": sha256, "method": "electronic", "on": day(0)})
}

/// Sends a lease and waits for the outcome however long it takes: the state it came to, and the refusal's code.
pub async fn send_lease(admin: &Http, lease: &str, body: &Value) -> Result<(String, String)> {
    let answer = admin.post(&format!("/leases/{lease}/send"), body).send().await?;
    match answer.status {
        200 => Ok(("sent".to_owned(), String::new())),
        409 => Ok(("draft".to_owned(), answer.code())),
        202 => {
            let position = answer.position()?;
            settled(admin, lease, &position).await
        }
        _ => anyhow::bail!("{answer}"),
    }
}

/// Waits until a lease is no longer `sending`: its state, and the code of its last refusal.
pub async fn settled(admin: &Http, lease: &str, position: &str) -> Result<(String, String)> {
    let read = admin.get(&format!("/leases/{lease}")).after(position, 5);
    let read = &read;
    until("the lease's outcome", SETTLES_WITHIN, || async move {
        let answer = read.send().await?;
        if answer.status == 503 {
            return Ok(None);
        }
        let body = answer.success()?.json()?;
        let status = body["status"].as_str().unwrap_or_default().to_owned();
        let code = body["send_refusal"]["code"].as_str().unwrap_or_default().to_owned();
        Ok((status != "sending").then_some((status, code)))
    })
    .await
}

/// Waits until nothing is in a unit's calendar.
pub async fn free(admin: &Http, unit: &str) -> Result<()> {
    let read = admin.get(&format!("/units/{unit}/calendar"));
    let read = &read;
    until("an empty calendar", SETTLES_WITHIN, || async move {
        let answer = read.send().await?.success()?;
        let body = answer.json()?;
        let entries = body["entries"].as_array().with_context(|| format!("no entries: {answer}"))?;
        Ok(entries.iter().all(|entry| entry["ended"] == true).then_some(()))
    })
    .await
}

/// Asks for a report and answers its id.
pub fn report(caller: &Http, path: &str, body: &Value) -> Result<String> {
    caller.post(path, body).now()?.expect(202)?.id()
}

/// Waits for the end of a report, whatever it is.
pub async fn finished(caller: &Http, report: &str, bound: Duration) -> Result<Value> {
    let read = caller.get(&format!("/reports/{report}"));
    let read = &read;
    until(&format!("the end of report {report}"), bound, || async move {
        let answer = read.send().await?;
        // The view may not know it yet.
        if answer.status == 404 {
            return Ok(None);
        }
        let body = answer.success()?.json()?;
        let open = ["queued", "running"].iter().any(|state| body["status"] == *state);
        Ok((!open).then_some(body))
    })
    .await
}

/// The rows of a list's page.
pub fn data(answer: &Answer) -> Result<Vec<Value>> {
    let body = answer.json()?;
    body["data"].as_array().cloned().with_context(|| format!("no data: {answer}"))
}
