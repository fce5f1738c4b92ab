//! Each private server starts, answers, survives a kill on the same port and data, and leaves nothing behind.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use xtask::net::wait_until;
use xtask::process::{alive, tree};
use xtask::servers::{Postgres, RabbitMq, Redis};

fn passable_dir() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let passable = std::fs::Permissions::from_mode(0o711);
    tempfile::Builder::new().prefix("casitas-servers-").permissions(passable).tempdir().expect("a temporary folder")
}

/// Processes whose command line or environment names the folder: nothing of a stopped server may be among them.
fn processes_about(dir: &Path) -> Vec<String> {
    let name = dir.display().to_string();
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|pid| *pid != std::process::id())
        .filter_map(|pid| {
            let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            let environment = String::from_utf8_lossy(&read("environ")).into_owned();
            (command.contains(&name) || environment.contains(&name)).then_some(command)
        })
        .collect()
}

fn assert_nothing_is_left(dir: &Path, pids: &[u32], ports: &[u16]) {
    assert_eq!(processes_about(dir), Vec::<String>::new());
    for pid in pids {
        assert!(!alive(*pid), "process {pid} is still there");
    }
    for port in ports {
        assert!(!xtask::net::accepts(*port), "port {port} still accepts");
    }
}

#[test]
fn a_killed_postgres_has_every_commit_when_it_starts_again() {
    let dir = passable_dir();
    let mut postgres = Postgres::start(&dir.path().join("pg"), "a'b password").expect("Postgres starts");
    assert_eq!(postgres.sql("postgres", "show data_checksums").unwrap(), "on");
    assert_eq!(postgres.sql("postgres", "show fsync").unwrap(), "on");
    assert_eq!(postgres.sql("postgres", "show max_connections").unwrap(), "200");
    postgres.sql("postgres", "create table kept (n int); insert into kept values (42)").unwrap();
    let (port, family) = (postgres.port(), tree(postgres.pid().unwrap()));
    postgres.kill9().expect("killed");
    assert!(postgres.sql("postgres", "select 1").is_err());
    postgres.start_again().expect("starts again");
    assert_eq!(postgres.port(), port);
    assert_eq!(postgres.sql("postgres", "select n from kept").unwrap(), "42");
    postgres.stop().expect("stops");
    assert_nothing_is_left(dir.path(), &family, &[port]);
}

#[test]
fn a_dropped_postgres_is_gone() {
    let dir = passable_dir();
    let postgres = Postgres::start(&dir.path().join("pg"), "secret").expect("Postgres starts");
    let (port, family) = (postgres.port(), tree(postgres.pid().unwrap()));
    drop(postgres);
    assert_nothing_is_left(dir.path(), &family, &[port]);
}

#[test]
fn redis_starts_empty_again_after_a_kill() {
    let dir = passable_dir();
    let mut redis = Redis::start(&dir.path().join("redis"), None).expect("Redis starts");
    redis.cli(None, &["SET", "k", "v"]).unwrap();
    assert_eq!(redis.cli(None, &["GET", "k"]).unwrap(), "v");
    let (port, family) = (redis.port(), tree(redis.pid().unwrap()));
    redis.kill9().expect("killed");
    redis.start_again().expect("starts again");
    assert_eq!((redis.port(), redis.cli(None, &["GET", "k"]).unwrap()), (port, String::new()));
    redis.stop().expect("stops");
    assert_nothing_is_left(dir.path(), &family, &[port]);
}

#[test]
fn redis_keeps_to_its_acl_file() {
    let dir = passable_dir();
    let acl = "user default off\nuser query on >secret ~view:* +get\n";
    let redis = Redis::start(&dir.path().join("redis"), Some(acl)).expect("Redis starts");
    assert!(redis.cli(None, &["GET", "view:a"]).is_err());
    assert_eq!(redis.cli(Some(("query", "secret")), &["GET", "view:a"]).unwrap(), "");
    assert!(redis.cli(Some(("query", "secret")), &["SET", "view:a", "1"]).is_err());
    assert!(redis.cli(Some(("query", "secret")), &["GET", "other"]).is_err());
}

#[test]
fn a_paused_redis_answers_nothing_until_resumed() {
    let dir = passable_dir();
    let redis = Redis::start(&dir.path().join("redis"), None).expect("Redis starts");
    redis.pause();
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", redis.pid().unwrap())).unwrap();
    wait_until("the stop", Duration::from_secs(5), || Ok(state().contains(") T "))).unwrap();
    redis.resume();
    assert_eq!(redis.cli(None, &["PING"]).unwrap(), "PONG");
}

#[test]
fn a_killed_rabbitmq_keeps_its_durable_queues_and_takes_its_port_mapper_along_when_stopped() {
    let dir = passable_dir();
    let folder = dir.path().join("rabbitmq");
    let definitions = r#"{"vhosts":[{"name":"casitas"}],"users":[{"name":"worker","password":"pw","tags":[]}],
        "permissions":[{"user":"worker","vhost":"casitas","configure":"","write":".*","read":".*"}],
        "queues":[{"name":"high_priority","vhost":"casitas","durable":true,"auto_delete":false,
                   "arguments":{"x-queue-type":"quorum"}}]}"#;
    let config = format!("load_definitions = {}/rabbitmq-definitions.json\n", folder.display());
    let mut rabbitmq = RabbitMq::start_with_definitions(&folder, &config, definitions).expect("RabbitMQ starts");
    let port = rabbitmq.port();
    assert_eq!(rabbitmq.ctl(&["list_users", "--no-table-headers"]).unwrap(), "worker\t[]");
    let mut family = tree(rabbitmq.pid().unwrap());
    rabbitmq.kill9().expect("killed");
    rabbitmq.start_again().expect("starts again");
    family.extend(tree(rabbitmq.pid().unwrap()));
    assert_eq!(rabbitmq.port(), port);
    let queues = rabbitmq.ctl(&["list_queues", "-p", "casitas", "name", "type", "--no-table-headers"]).unwrap();
    assert_eq!(queues, "high_priority\tquorum");
    rabbitmq.stop().expect("stops");
    assert_nothing_is_left(dir.path(), &family, &[port]);
}
