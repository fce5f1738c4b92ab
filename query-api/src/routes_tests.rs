use axum::http::StatusCode;
use domain::auth::Role;
use domain::units::{PropertyFacts, UnitEvent};
use domain::{AggregateKind, Currency, HoldId, Money, PartyId, PropertyId};
use jiff::civil::date;
use uuid::Uuid;

use crate::stage::{Stage, instant};

pub fn unit(number: u128) -> Uuid {
    Uuid::from_u128(0x100 + number)
}

fn usd(amount: i64) -> Money {
    Money::new(amount, Currency::new("USD").expect("a currency"))
}

/// A stage with some listed units, priced 1, 2, 3 … hundred dollars.
async fn with_units(count: u128) -> Stage {
    with_units_on(Stage::new().await, count).await
}

pub async fn with_units_on(stage: Stage, count: u128) -> Stage {
    for number in 1..=count {
        let property = PropertyFacts {
            property_id: PropertyId(Uuid::from_u128(1)),
            property_name: "Casa Azul".into(),
            city: "Lima".into(),
            region: None,
            country: "PE".into(),
            time_zone: "America/Lima".into(),
            currency: Currency::new("USD").expect("a currency"),
            jurisdiction: "PE".into(),
        };
        let added = UnitEvent::UnitAdded {
            property,
            unit_number: format!("{number}"),
            bedrooms: 2,
            bathrooms_x2: 3,
            area_m2: 80,
            amenities: Default::default(),
        };
        let listed = UnitEvent::UnitListed {
            price: usd(10_000 * i64::try_from(number).expect("small")),
            deposit: usd(10_000),
            available_from: date(2026, 1, 1),
            min_term_months: 6,
        };
        stage.happened(AggregateKind::Unit, unit(number), 1, &added).await;
        stage.happened(AggregateKind::Unit, unit(number), 2, &listed).await;
    }
    stage
}

#[tokio::test]
async fn the_second_get_of_the_public_list_is_a_hit_and_its_etag_answers_304() {
    let stage = with_units(3).await;
    let first = stage.get("/units/available").await;
    assert_eq!((first.status, first.header("x-cache")), (StatusCode::OK, "MISS"));
    assert!(first.header("cache-status").starts_with("casitas; fwd=miss; stored; ttl="), "{:?}", first.headers);
    assert_eq!(first.json()["data"].as_array().expect("a list").len(), 3);
    let second = stage.get("/units/available").await;
    assert_eq!((second.header("x-cache"), second.header("age")), ("HIT", "0"));
    assert!(second.header("cache-status").starts_with("casitas; hit; ttl="), "{:?}", second.headers);
    assert_eq!(second.header("cache-control"), "public, max-age=1");
    assert_eq!(second.header("vary"), "accept-encoding, authorization");
    assert_eq!(second.bytes, first.bytes);
    let etag = second.header("etag").to_owned();
    let unchanged = stage.get_with("/units/available", &[("if-none-match", &format!("\"other\", W/{etag}"))]).await;
    assert_eq!((unchanged.status, unchanged.bytes.len()), (StatusCode::NOT_MODIFIED, 0));
    assert_eq!(unchanged.header("etag"), etag);
    let head = stage.head("/units/available").await;
    assert_eq!((head.status, head.bytes.len(), head.header("etag")), (StatusCode::OK, 0, etag.as_str()));
}

#[tokio::test]
async fn a_long_list_is_compressed_for_those_who_accept_it() {
    let stage = with_units(20).await;
    let packed = stage.get_with("/units/available", &[("accept-encoding", "gzip")]).await;
    let plain = stage.get("/units/available").await;
    assert_eq!((packed.header("content-encoding"), plain.header("content-encoding")), ("gzip", ""));
    assert!(packed.bytes.len() < plain.bytes.len());
    assert_ne!(packed.header("etag"), plain.header("etag"), "each representation has its own strong tag");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed.bytes[..]), &mut text).expect("gzip");
    assert_eq!(text.as_bytes(), &plain.bytes[..]);
}

#[tokio::test]
async fn pages_follow_each_other_by_the_link_without_overlap() {
    let stage = with_units(5).await;
    let mut path = "/units/available?limit=2&city=lima".to_owned();
    let mut prices = vec![];
    loop {
        let page = stage.get(&path).await;
        let body = page.json();
        prices.extend(body["data"].as_array().expect("a list").iter().map(|unit| unit["price"]["amount"].clone()));
        if body["next_cursor"].is_null() {
            assert_eq!(page.header("link"), "");
            break;
        }
        let link = page.header("link");
        assert!(link.ends_with(">; rel=\"next\"") && link.contains("city=lima"), "{link}");
        path = link[1..link.find('>').expect("a link")].to_owned();
    }
    assert_eq!(prices, [10_000, 20_000, 30_000, 40_000, 50_000]);
}

#[tokio::test]
async fn malformed_parameters_are_refused_and_name_the_field() {
    let stage = with_units(1).await;
    for (query, pointer) in [
        ("limit=0", "/query/limit"),
        ("limit=1001", "/query/limit"),
        ("limit=x", "/query/limit"),
        ("cursor=zz", "/query/cursor"),
        ("from=2026-02-30", "/query/from"),
        ("from=2026-03-10&to=2026-03-10", "/query/to"),
        ("from=0001-01-01", "/query/from"),
        ("amenities=helipad", "/query/amenities"),
        ("bathrooms=1.3", "/query/bathrooms"),
        ("min_price=1.5", "/query/min_price"),
        ("property_id=7", "/query/property_id"),
        ("city=a%00b", "/query/city"),
        ("colour=red", "/query/colour"),
    ] {
        let refused = stage.get(&format!("/units/available?{query}")).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{query}");
        let body = refused.json();
        assert_eq!(
            (&body["code"], &body["errors"][0]["pointer"]),
            (&"VALIDATION_FAILED".into(), &pointer.into()),
            "{query}"
        );
    }
}

#[tokio::test]
async fn position_tokens_are_judged() {
    let stage = with_units(1).await;
    let path = "/units/available";
    let reached = stage.get_with(path, &[("casitas-min-position", "units:2, legal:99")]).await;
    assert_eq!((reached.status, reached.header("cache-control")), (StatusCode::OK, "no-store"));
    let malformed = stage.get_with(path, &[("casitas-min-position", "units")]).await;
    assert_eq!(malformed.status, StatusCode::BAD_REQUEST);
    let ahead = stage.get_with(path, &[("casitas-min-position", "units:3"), ("prefer", "wait=0")]).await;
    assert_eq!((ahead.status, ahead.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "1"));
    assert_eq!(ahead.json()["code"], "POSITION_NOT_REACHED");
    let restored = format!("units:1@{}", Uuid::from_u128(2));
    let restored = stage.get_with(path, &[("casitas-min-position", &restored)]).await;
    assert_eq!((restored.status, &restored.json()["code"]), (StatusCode::CONFLICT, &"LOG_RESTORED".into()));
}

#[tokio::test(start_paused = true)]
async fn a_get_without_an_answer_is_given_up_within_two_seconds_or_when_its_client_would() {
    let stage = Stage::with_silent_users().await;
    let bearer = format!("Bearer {}", stage.token_of(Uuid::from_u128(50), 0));
    let position = ("casitas-min-position", "units:1");
    let asked: [(&[(&str, &str)], u128); 4] = [
        // A wait is for a position.
        (&[("prefer", "wait=5")], 1_400),
        (&[position, ("prefer", "wait=1")], 1_400),
        (&[position], 2_000),
        (&[position, ("prefer", "wait=5")], 5_000),
    ];
    for (headers, within_ms) in asked {
        let mut headers = headers.to_vec();
        headers.push(("authorization", &bearer));
        let began = tokio::time::Instant::now();
        let answer = stage.get_with("/units", &headers).await;
        let took_ms = began.elapsed().as_millis();
        assert!((within_ms..within_ms + 50).contains(&took_ms), "{headers:?}: {took_ms} ms");
        assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "1"));
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(answer.json()["code"], "UNAVAILABLE");
    }
}

#[tokio::test(start_paused = true)]
async fn that_a_position_is_not_reached_is_told_within_the_wait() {
    let stage = with_units(1).await;
    let began = tokio::time::Instant::now();
    let asked = [("casitas-min-position", "units:3"), ("prefer", "wait=1")];
    let behind = stage.get_with("/units/available", &asked).await;
    assert_eq!(behind.json()["code"], "POSITION_NOT_REACHED");
    let took_ms = began.elapsed().as_millis();
    assert!((800..1_000).contains(&took_ms), "{took_ms} ms");
}

#[tokio::test]
async fn a_held_unit_is_back_in_the_list_at_the_very_instant_the_hold_expires() {
    let stage = with_units(1).await;
    let held = UnitEvent::HoldPlaced {
        hold_id: HoldId(Uuid::from_u128(9)),
        party_id: PartyId(Uuid::from_u128(8)),
        from: date(2026, 3, 1),
        to: date(2026, 4, 1),
        expires_at: instant("2026-03-10T12:00:05Z"),
    };
    stage.happened(AggregateKind::Unit, unit(1), 3, &held).await;
    assert_eq!(stage.get("/units/available").await.json()["data"], serde_json::json!([]));
    stage.clock.set(instant("2026-03-10T12:00:04.500Z"));
    let last = stage.get("/units/available").await;
    assert_eq!((last.header("x-cache"), last.header("cache-control")), ("HIT", "public, no-cache"));
    assert_eq!(last.json()["data"], serde_json::json!([]));
    stage.clock.set(instant("2026-03-10T12:00:05Z"));
    assert_eq!(stage.get("/units/available").await.json()["data"].as_array().expect("a list").len(), 1);
}

#[tokio::test]
async fn what_is_not_public_needs_a_token_and_a_role() {
    let stage = with_units(1).await;
    for path in ["/units", "/properties", "/users", "/auth/me"] {
        assert_eq!(stage.get(path).await.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(stage.get_as("forged", path).await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    let tenant = stage.login(&[Role::Tenant], Some(Uuid::from_u128(8)));
    assert_eq!(stage.get_as(&tenant, "/units").await.status, StatusCode::FORBIDDEN);
    let finance = stage.login(&[Role::Finance], None);
    assert_eq!(stage.get_as(&finance, "/users").await.status, StatusCode::FORBIDDEN);
    let list = stage.get_as(&finance, "/units").await;
    assert_eq!((list.status, list.header("cache-control")), (StatusCode::OK, "private, no-cache"));
    let one = stage.get_as(&finance, &format!("/units/{}", unit(1))).await;
    assert_eq!((one.status, &one.json()["version"]), (StatusCode::OK, &2.into()));
    assert_eq!(stage.get_as(&finance, &format!("/units/{}/calendar", unit(1))).await.status, StatusCode::OK);
    assert_eq!(stage.get_as(&finance, &format!("/units/{}", unit(7))).await.status, StatusCode::NOT_FOUND);
    assert_eq!(stage.get_as(&finance, "/units/seven").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn the_shortcut_answers_as_the_route_does() {
    let stage = with_units(20).await;
    stage.get("/units/available?limit=5").await;
    let etag = stage.get("/units/available?limit=5").await.header("etag").to_owned();
    let second = instant("2026-03-10T12:00:00Z").as_second();
    for asked in [
        vec![],
        vec![("accept-encoding", "gzip")],
        vec![("if-none-match", etag.as_str())],
        vec![("if-none-match", "\"u-0\""), ("accept-encoding", "br, gzip;q=0.1")],
        vec![("authorization", "Bearer whatever"), ("x-request-id", "0123-abc")],
    ] {
        let short = stage.get_with("/units/available?limit=5", &asked).await;
        // An empty list of positions asks for nothing, but only the route reads it.
        let mut routed = asked.clone();
        routed.push(("casitas-min-position", ""));
        let long = stage.get_with("/units/available?limit=5", &routed).await;
        let but_id = |answer: &crate::stage::Answer| {
            let mut headers = answer.headers.clone();
            let id = headers.remove("x-request-id").expect("an id");
            // The router sets it, hyper does otherwise.
            headers.remove("content-length");
            (headers, id.len())
        };
        assert_eq!(short.header("x-cache"), "HIT", "{asked:?}");
        assert_eq!((short.status, &short.bytes, but_id(&short)), (long.status, &long.bytes, but_id(&long)), "{asked:?}");
        assert_eq!(short.header("x-accel-expires"), format!("@{second}"));
    }
    let link = stage.get("/units/available?limit=5").await.header("link").to_owned();
    assert!(link.starts_with("</units/available?limit=5&cursor="), "{link}");
}

#[tokio::test(start_paused = true)]
async fn the_shortcut_answers_nothing_that_changed_or_that_cannot_be_judged() {
    let stage = with_units(2).await;
    let path = "/units/available";
    stage.get(path).await;
    assert_eq!(stage.get(path).await.header("x-cache"), "HIT");
    stage.happened(AggregateKind::Unit, unit(1), 3, &UnitEvent::UnitUnlisted {}).await;
    let changed = stage.get(path).await;
    assert_eq!((changed.header("x-cache"), changed.json()["data"].as_array().map(Vec::len)), ("MISS", Some(1)));
    assert_eq!(stage.get(path).await.header("x-cache"), "HIT");
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    let blind = stage.get(path).await;
    assert_eq!((blind.header("x-cache"), blind.header("cache-status")), ("MISS", "casitas; fwd=bypass"));
    assert_eq!(blind.header("x-accel-expires"), "");
}
