//! The Postgres view store against the port's contract, and its rights.

mod cluster;
mod weather;

use adapters::postgres::PostgresViews;
use cluster::Cluster;
use domain::PropertyId;
use ports::conformance::views as view;
use ports::{Error, FieldValue, Select, ViewStore, conformance, conformance_spec};
use read_models::available_units::{self, AvailableUnitsFilter};
use serde_json::Value;
use sqlx::Executor;
use uuid::Uuid;
use weather::{Proxy, Weather, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_views_keep_the_contract() {
    let cluster = Cluster::with_views().await;
    conformance::views::all(cluster.views()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn generations_keep_the_contract() {
    let cluster = Cluster::with_views().await;
    conformance::generations::all(cluster.views()).await;
}

#[tokio::test]
async fn readers_see_every_model_and_write_none() {
    let cluster = Cluster::with_views().await;
    let spec = conformance_spec!("guarded");
    let views = cluster.views();
    let claim = view::lead(views.as_ref(), spec).await;
    views.apply(&view::step(spec, &claim, 0, vec![view::put("a", 1, None, None)])).await.expect("applied");
    for role in ["casitas_query", "casitas_command", "casitas_worker"] {
        let reader = PostgresViews::connect(&cluster.server(role));
        let mut snapshot = reader.snapshot().await.expect("a snapshot");
        assert!(snapshot.get("guarded", "a").await.expect("read").is_some(), "{role}");
        drop(snapshot);
        let answer = reader.apply(&view::step(spec, &claim, 1, vec![view::put("a", 2, None, None)])).await;
        assert!(matches!(answer, Err(Error::Rejected { .. })), "{role}: {answer:?}");
        for sql in ["UPDATE view_heads SET term = 9", "DELETE FROM v_guarded_1", "CREATE TABLE mine (x int)"] {
            let refusal = cluster.refusal(role, "views_db", sql).await;
            assert!(refusal.contains("permission denied"), "{role} {sql}: {refusal}");
        }
    }
}

#[tokio::test]
async fn a_model_is_led_by_one_process() {
    let cluster = Cluster::with_views().await;
    let spec = conformance_spec!("led");
    let (one, two) = (cluster.views(), cluster.views());
    let specs = [spec];
    let (first, second) = tokio::join!(one.prepare(&specs), two.prepare(&specs));
    first.and(second).expect("prepared by both");
    one.claim(spec).await.expect("claimed").expect("free");
    assert_eq!(two.claim(spec).await.expect("asked"), None);
}

#[tokio::test]
async fn old_changes_are_trimmed_and_the_oldest_kept_is_named() {
    let cluster = Cluster::with_views().await;
    let views = cluster.views();
    let spec = conformance_spec!("trimmed");
    let claim = view::lead(views.as_ref(), spec).await;
    // As if 10,999 steps had been made.
    let mut owner = cluster.connect("casitas_owner", "views_db").await;
    owner.execute("UPDATE view_heads SET revision = 10999, position = 10999").await.expect("updated");
    owner
        .execute("INSERT INTO view_changes SELECT 'trimmed', 1, n, '{}' FROM generate_series(1, 10999) n")
        .await
        .expect("filled");
    views.apply(&view::step(spec, &claim, 10_999, vec![view::put("a", 1, None, None)])).await.expect("applied");
    let head = views.heads().await.expect("heads").remove(0);
    assert_eq!((head.revision, head.oldest_change), (11_000, 1_001));
    let kept = views.changes("trimmed", 1, 0, 20_000).await.expect("changes");
    assert_eq!((kept.len(), kept[0].revision), (10_000, 1_001));
}

#[tokio::test]
async fn filters_and_order_are_served_by_an_index() {
    let cluster = Cluster::with_views().await;
    let views = cluster.views();
    let spec = conformance_spec!("indexed");
    let claim = view::lead(views.as_ref(), spec).await;
    let rows = (0..5_000).map(|n| view::put(&format!("row-{n:05}"), n, Some("Berlin"), Some(n / 10))).collect();
    views.apply(&view::step(spec, &claim, 0, rows)).await.expect("applied");
    let mut owner = cluster.connect("casitas_owner", "views_db").await;
    owner.execute("ANALYZE v_indexed_1").await.expect("analysed");
    for (sql, index) in [
        ("SELECT key FROM v_indexed_1 ORDER BY f_rent ASC NULLS FIRST, key ASC LIMIT 10", "v_indexed_1_2"),
        ("SELECT key FROM v_indexed_1 ORDER BY f_rent DESC NULLS LAST, key DESC LIMIT 10", "v_indexed_1_2"),
        (
            "SELECT key FROM v_indexed_1 WHERE (f_rent, key) > (77, 'row-00775') ORDER BY f_rent ASC NULLS FIRST, key LIMIT 10",
            "v_indexed_1_2",
        ),
        ("SELECT key FROM v_indexed_1 WHERE key >= 'row-007' AND key < 'row-008' ORDER BY key", "v_indexed_1_pkey"),
    ] {
        let plan: Vec<String> =
            sqlx::query_scalar(&format!("EXPLAIN {sql}")).fetch_all(&mut owner).await.expect("explained");
        let plan = plan.join("\n");
        assert!(plan.contains(index) && !plan.contains("Sort"), "{sql}\n{plan}");
    }
}

/// Pages that a plan touched, and whether it read a whole table.
fn cost(plan: &Value) -> (u64, bool) {
    let top = &plan[0]["Plan"];
    let pages = |name: &str| top[name].as_u64().expect("a count of pages");
    (pages("Shared Hit Blocks") + pages("Shared Read Blocks"), plan.to_string().contains("Seq Scan"))
}

#[tokio::test]
async fn a_search_among_100_000_units_reads_few_of_them_whatever_is_asked_for() {
    let cluster = Cluster::with_views().await;
    let views = cluster.views();
    views.prepare(&[&available_units::SPEC]).await.expect("prepared");
    let mut owner = cluster.connect("casitas_owner", "views_db").await;
    // Every other one is not listed and so has no price. 200 cities, 2,000 properties, rents of 500 to 3,500.
    let filled =
        "INSERT INTO v_available_units_1 (key, doc, f_price_low, f_price_high, f_currency, f_bedrooms, f_bathrooms_x2,
            f_area_m2, f_city, f_property_id)
        SELECT md5(i::text)::uuid::text, json_build_object('unit', repeat('x', 1200)), CASE WHEN i % 2 = 1 THEN rent END,
            CASE WHEN i % 2 = 1 THEN rent + 5000 END, 'USD', i % 5, 2 + i % 4, 30 + (i * 7) % 150, 'city' || (i % 200),
            md5((i / 50)::text)::uuid::text
          FROM (SELECT i, 50000 + ((i * 7919) % 3000) * 100 AS rent FROM generate_series(1, 100000) i) s";
    owner.execute(filled).await.expect("filled");
    owner.execute("VACUUM ANALYZE v_available_units_1").await.expect("analysed");
    let pages: i64 = sqlx::query_scalar("SELECT pg_relation_size('v_available_units_1') / 8192")
        .fetch_one(&mut owner)
        .await
        .expect("a size");
    let property: Uuid = sqlx::query_scalar("SELECT md5('77')::uuid").fetch_one(&mut owner).await.expect("an id");
    let all = AvailableUnitsFilter::default;
    let half = |text: &str| serde_json::from_str(text).expect("a number of bathrooms");
    for filter in [
        all(),
        AvailableUnitsFilter { city: Some("City77".into()), ..all() },
        AvailableUnitsFilter { property_id: Some(PropertyId(property)), ..all() },
        AvailableUnitsFilter { max_price: Some(60_000), ..all() },
        AvailableUnitsFilter { min_price: Some(200_000), max_price: Some(210_000), ..all() },
        AvailableUnitsFilter { min_price: Some(345_000), ..all() },
        AvailableUnitsFilter { bedrooms: Some(3), ..all() },
        AvailableUnitsFilter { bedrooms: Some(9), ..all() },
        AvailableUnitsFilter { min_bedrooms: Some(4), ..all() },
        AvailableUnitsFilter { bathrooms: Some(half("1.5")), bedrooms: Some(3), min_area: Some(170), ..all() },
        AvailableUnitsFilter { min_area: Some(179), city: Some("city77".into()), ..all() },
    ] {
        let mut select = Select {
            model: available_units::SPEC.name,
            filters: filter.filters(),
            order: available_units::CHEAPEST_FIRST,
            after: None,
            limit: 64,
        };
        for after in [None, Some((FieldValue::Int(250_000), "8".to_owned()))] {
            select.after = after;
            let plan = views.plan(&select).await.expect("a plan");
            let (touched, whole) = cost(&plan);
            assert!(!whole && touched * 10 < pages as u64, "{touched} of {pages} pages for {select:?}\n{plan:#}");
        }
    }
}

#[tokio::test]
async fn swallowed_connections_do_not_block_the_pool() {
    let cluster = Cluster::with_views().await;
    let (host, port) = cluster.host_and_port();
    let proxy = Proxy::start(&host, port).await;
    let server = cluster.server_at(&format!("127.0.0.1:{}", proxy.port), "casitas_query").with_connections(2);
    let views = PostgresViews::connect(&server);
    let (mut one, mut two) = (views.snapshot().await.expect("a snapshot"), views.snapshot().await.expect("a snapshot"));
    proxy.make(Weather::Silent);
    let (a, b) = tokio::join!(one.head("unheard_of"), two.head("unheard_of"));
    assert!(matches!(a, Err(Error::Unavailable { .. })) && matches!(b, Err(Error::Unavailable { .. })));
    drop((one, two));
    proxy.make(Weather::Fair);
    until("the views answer again", async || views.heads().await.is_ok()).await;
}
