//! No plaintext of a person outside `party_card`: dumps of every store are searched for unmistakable words, and so is
//! what operators are shown.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::client::{Http, block};
use super::dates::{instant, now};
use super::system::System;
use super::world::{self, finished, fresh};
use crate::process::find_program;
use crate::servers::Postgres;

/// What must be found nowhere but in `party_card`.
struct Marks(Vec<String>);

impl Marks {
    fn found_in(&self, bytes: &[u8]) -> Vec<&str> {
        self.0.iter().map(String::as_str).filter(|mark| contains(bytes, mark.as_bytes())).collect()
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return false };
    let mut rest = haystack;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        if rest[at..].starts_with(needle) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// A person who goes through everything: registered, changed, leasing, in reports, read by everybody who may. Answers
/// their words and the party's id.
fn person(admin: &Http) -> Result<(Marks, String)> {
    let word = |kind: &str| fresh(kind).replace('-', "");
    let (full, given, family) = (word("Fullname"), word("Givenname"), word("Familyname"));
    let (tax, street) = (word("TAX"), word("Street"));
    let email = format!("{}@mail.example", word("emailuser"));
    let digits = |start: &str| format!("+1555{start}{:09}", crate::net::random_u64() % 1_000_000_000);
    let (phone, later) = (digits("1"), digits("2"));
    let body = json!({"kind": "person", "roles": ["tenant"], "details": {
        "names": {"full": full, "given": given, "family": family}, "birth_date": "1987-06-05", "tax_id": tax,
        "emails": [email], "phones": [phone],
        "address": {"line1": street, "city": "Testville", "country": "US"}}});
    let party = admin.done("/parties", &body)?.id()?;
    admin
        .request("PATCH", &format!("/parties/{party}"))
        .json(&json!({"phones": [phone, later]}))
        .key(&fresh("key"))
        .now()?
        .success()?;
    let property = world::property(admin)?;
    let (unit, _) = world::unit(admin, &property, &fresh("P"))?;
    let lease = world::lease(admin, &world::lease_body(&unit, &party, 5, 35))?;
    let (document, sha256) = world::document(admin, Some(&lease))?;
    block(world::send_lease(admin, &lease, &world::send_body(&document, &party)))?;
    admin.done(&format!("/leases/{lease}/signatures"), &world::sign_body(&party, &sha256))?;
    for (path, format) in
        [("/finances/generate_report", "csv"), ("/legal/generate_report", "csv"), ("/legal/generate_report", "json")]
    {
        let report = world::report(admin, path, &json!({"format": format}))?;
        let done = block(finished(admin, &report, Duration::from_secs(60)))?;
        ensure!(done["status"] == "succeeded", "{done}");
        admin.get(&format!("/reports/{report}/result")).now()?.success()?;
    }
    // Bad input with the words in it, for the logs.
    admin
        .post("/parties", &json!({"kind": full, "details": {"names": {"full": full}, "tax_id": tax, "zz": email}}))
        .now()?
        .expect(400)?;
    for _ in 0..3 {
        for path in [
            format!("/parties/{party}"),
            "/parties?limit=1000".to_owned(),
            format!("/leases?party_id={party}"),
            format!("/leases/{lease}"),
        ] {
            let answer = admin.get(&path).now()?.success()?;
            let shown = contains(&answer.body, full.as_bytes());
            ensure!(shown == path.starts_with("/parties"), "{path} shows the name: {shown}");
        }
    }
    Ok((Marks(vec![full, given, family, tax, street, later, email, phone]), party))
}

/// Files below a folder, but not in `without`.
fn files(folder: &Path, without: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if without.contains(&name) {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, &[])?);
        } else if path.is_file() {
            found.push(path);
        }
    }
    Ok(found)
}

struct Search<'a> {
    marks: &'a Marks,
    places: Vec<String>,
    bytes: usize,
    hits: Vec<String>,
}

impl Search<'_> {
    fn look(&mut self, place: &str, bytes: &[u8]) {
        self.bytes += bytes.len();
        let found = self.marks.found_in(bytes);
        if !found.is_empty() {
            self.hits.push(format!("{place}: {found:?}"));
        }
    }

    fn folder(&mut self, name: &str, folder: &Path, without: &[&str]) -> Result<()> {
        let files = files(folder, without)?;
        for file in &files {
            let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
            self.look(&file.display().to_string(), &bytes);
        }
        self.places.push(format!("{name} ({} files)", files.len()));
        Ok(())
    }

    fn verdict(self) -> Result<String> {
        ensure!(self.hits.is_empty(), "plaintext in {} places: {:?}", self.hits.len(), self.hits);
        Ok(format!("0 hits in {} MB: {}", self.bytes / 1_000_000, self.places.join(", ")))
    }
}

fn dump(postgres: &Postgres, database: &str, args: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(postgres.bin_dir().join("pg_dump"))
        .args(["-h", "127.0.0.1", "-p", &postgres.port().to_string(), "-U", crate::servers::POSTGRES_OWNER, "--inserts"])
        .args(args)
        .arg(database)
        .env("PGPASSWORD", postgres.password())
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "pg_dump: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

pub fn distributed(system: &mut System) -> Result<String> {
    let admin = world::admin(system)?;
    let (marks, _) = person(&admin)?;
    system.caught_up()?;
    let stack = system.stack()?;
    let mut search = Search { marks: &marks, places: Vec::new(), bytes: 0, hits: Vec::new() };
    let listed = stack.postgres.sql("postgres", "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1")?;
    for database in listed.lines() {
        let bytes = dump(&stack.postgres, database, &["--exclude-table-data=*party_card*"])?;
        search.look(database, &bytes);
        search.places.push(format!("{database} ({} kB)", bytes.len() / 1_000));
    }
    let card = dump(&stack.postgres, "views_db", &["--table=*party_card*"])?;
    let there = marks.found_in(&card).len();
    ensure!(there >= 7, "the search finds only {there} of the words in party_card itself: it would find nothing elsewhere");
    let password = stack.secret("ops_token")?;
    let cli = |args: &[&str]| stack.redis.cli(Some(("operator", &password)), args);
    let keys = cli(&["--scan"])?;
    ensure!(!keys.is_empty(), "nothing is in Redis");
    search.look("the names of Redis' keys", keys.as_bytes());
    for key in keys.lines() {
        let kind = cli(&["TYPE", key])?;
        ensure!(kind.trim() == "hash", "{key} is a {kind}, which this search cannot read");
        search.look(&format!("Redis {key}"), cli(&["HGETALL", key])?.as_bytes());
    }
    search.places.push(format!("Redis ({} keys)", keys.lines().count()));
    for (name, folder) in [("RabbitMQ", "rabbitmq"), ("artifacts", "artifacts"), ("logs", "logs"), ("Nginx", "nginx")] {
        search.folder(name, &stack.dir().join(folder), &["temp"])?;
    }
    search.verdict()
}

pub fn embedded(system: &mut System) -> Result<String> {
    let admin = world::admin(system)?;
    let (marks, _) = person(&admin)?;
    system.caught_up()?;
    let System::Embedded(embedded) = system else { bail!("not embedded") };
    // While it runs: what is in the WAL counts too.
    let mut search = Search { marks: &marks, places: Vec::new(), bytes: 0, hits: Vec::new() };
    search.look("the process' log", &fs::read(embedded.log())?);
    let data = embedded.data_dir();
    search.folder(
        "logs, artifacts, WALs",
        &data,
        &["views.sqlite", "views.sqlite-wal", "views.sqlite-shm", "casitas.sock"],
    )?;
    let (without, card) = sqlite_dump(&data.join("views.sqlite"))?;
    search.look("views.sqlite", without.as_bytes());
    search.places.push(format!("views.sqlite ({} kB)", without.len() / 1_000));
    let there = marks.found_in(card.as_bytes()).len();
    ensure!(there >= 7, "the search finds only {there} of the words in party_card itself: it would find nothing elsewhere");
    search.verdict()
}

/// Every table but `party_card`, and that one.
fn sqlite_dump(file: &Path) -> Result<(String, String)> {
    let program = find_program(&["sqlite3"]);
    let python = find_program(&["python3"]);
    let uri = format!("file:{}?mode=ro", file.display());
    let script = "
import json, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], uri=True)
names = [row[0] for row in connection.execute(\"SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1\")]
print(json.dumps({name: [[str(cell) for cell in row] for row in connection.execute(f'SELECT * FROM \"{name}\"')] for name in names}))
";
    let tables: Value = match (python, program) {
        (Some(python), _) => serde_json::from_str(&run(Command::new(python).args(["-c", script, &uri]))?)?,
        (None, Some(sqlite)) => {
            let names = run(Command::new(&sqlite).args([&uri, "SELECT name FROM sqlite_master WHERE type = 'table'"]))?;
            let mut tables = serde_json::Map::new();
            for name in names.lines() {
                let rows = run(Command::new(&sqlite).args([&uri, &format!("SELECT * FROM \"{name}\"")]))?;
                tables.insert(name.to_owned(), json!(rows));
            }
            Value::Object(tables)
        }
        (None, None) => bail!("neither python3 nor sqlite3 is here to read views.sqlite with"),
    };
    let tables = tables.as_object().context("no tables")?;
    ensure!(tables.len() > 5, "only {:?} in views.sqlite", tables.keys());
    let pick = |card: bool| -> String {
        let chosen = tables.iter().filter(|(name, _)| name.contains("party_card") == card);
        chosen.map(|(name, rows)| format!("{name} {rows}\n")).collect()
    };
    Ok((pick(false), pick(true)))
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Somebody who is looked at with the operator's verbs.
struct Story {
    words: Marks,
    id: String,
    /// `party:0192…`
    stream: String,
    /// `legal:42`, in order.
    places: Vec<String>,
}

impl Story {
    fn of(system: &System, kind: &str, words: Marks, id: String) -> Result<Self> {
        let stream = format!("{kind}:{id}");
        let rows = system.rows(&["events", "list", "--stream", &stream])?;
        let place = |row: &Value| Some(format!("{}:{}", row["context"].as_str()?, row["position"].as_u64()?));
        let places: Vec<String> = rows.iter().filter_map(place).collect();
        ensure!(!places.is_empty(), "no event of {stream}: {rows:?}");
        Ok(Self { words, id, stream, places })
    }

    fn last(&self) -> &str {
        self.places.last().map_or("", String::as_str)
    }
}

/// A user: personal data beside a password's hash.
fn user(admin: &Http) -> Result<(Marks, String)> {
    let word = |kind: &str| fresh(kind).replace('-', "");
    let (name, email) = (word("Loginname"), format!("{}@mail.example", word("loginmail")));
    let body = json!({"username": fresh("user"), "email": email, "name": name, "roles": ["units"],
        "password": world::PASSWORD});
    let id = admin.done("/users", &body)?.id()?;
    Ok((Marks(vec![name, email]), id))
}

/// What a verb that must succeed writes, on both of its outputs.
fn written(system: &System, args: &[&str]) -> Result<Vec<u8>> {
    let output = system.casitas(args, "")?;
    ensure!(output.status.success(), "casitas {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok([output.stdout, output.stderr].concat())
}

/// How many passwords' hashes stand there; each of them must be hidden.
fn hidden_hashes(shown: &[u8]) -> Result<usize> {
    let text = String::from_utf8_lossy(shown);
    let named = text.matches("\"password_hash\":").count();
    let hidden = text.matches("\"password_hash\":\"(hidden)\"").count();
    ensure!(named == hidden && !text.contains("$argon2"), "of {named} passwords' hashes {hidden} are hidden");
    Ok(hidden)
}

/// The records of what operators revealed, oldest first.
fn reveals(system: &System) -> Result<Vec<Value>> {
    let stream = ["events", "list", "--stream", "operations:operators", "--type", "PersonalDataRevealed"];
    let rows = system.rows(&[&stream[..], &["--data", "--limit", "1000000"]].concat())?;
    Ok(rows.iter().map(|row| row["data"]["PersonalDataRevealed"].clone()).collect())
}

/// What an operator is shown of people: nothing, until it is revealed, and then who did that and why stands in the log.
/// A password's hash is never shown.
pub fn operator(system: &System) -> Result<String> {
    let admin = world::admin(system)?;
    let since = instant(now() - Duration::from_secs(1));
    let (words, id) = person(&admin)?;
    let person = Story::of(system, "party", words, id)?;
    let (words, id) = user(&admin)?;
    let user = Story::of(system, "user", words, id)?;
    let before = reveals(system)?.len();
    let (looks, hidden) = masked(system, &person, &user, &since)?;
    ensure!(reveals(system)?.len() == before, "something was recorded as revealed, and nothing was");
    let opened = revealed(system, &person, &user)?;
    let after = reveals(system)?.len();
    ensure!(after == before + opened, "{opened} reveals: {before} records before them, {after} after them");

    let all = Marks([&person.words.0[..], &user.words.0[..]].concat());
    let records = json!(reveals(system)?).to_string();
    ensure!(all.found_in(records.as_bytes()).is_empty(), "what was revealed stands in the record of it");
    if let System::Embedded(embedded) = system {
        let log = fs::read(embedded.log())?;
        ensure!(all.found_in(&log).is_empty(), "what was revealed stands in the process' log");
    }
    Ok(format!(
        "{looks} verbs show none of {} words and hide {hidden} hashes; {opened} reveals show all, recorded once each",
        all.0.len()
    ))
}

/// Every verb without `--reveal`. Answers how many there were, and how many hashes were hidden.
fn masked(system: &System, person: &Story, user: &Story, since: &str) -> Result<(usize, usize)> {
    let [first, second] = &person.places[..] else { bail!("the person's events are {:?}", person.places) };
    // What is asked, and whether it is about the person, and the user.
    let looks: [(&[&str], bool, bool); 10] = [
        (&["events", "list", "--data", "--since", since, "--limit", "1000000"], true, true),
        (&["events", "show", first], true, false),
        (&["events", "show", second], true, false),
        (&["events", "show", user.last()], false, true),
        (&["events", "state", "legal", &person.stream], true, false),
        (&["events", "state", "legal", &person.stream, "--at", "1"], true, false),
        (&["events", "diff", "legal", &person.stream, "0", "2"], true, false),
        (&["events", "state", "auth", &user.stream], false, true),
        (&["events", "replay", "--into", "stdout", "--from", since], true, true),
        (&["events", "export", "--format", "cloudevents", "-"], true, true),
    ];
    let mut hidden = 0;
    for (args, is_person, is_user) in looks {
        let shown = written(system, args)?;
        let found: Vec<&str> = [person, user].iter().flat_map(|story| story.words.found_in(&shown)).collect();
        ensure!(found.is_empty(), "casitas {args:?} shows {found:?}");
        // It is about them at all.
        for (story, is_shown) in [(person, is_person), (user, is_user)] {
            let names = contains(&shown, story.id.as_bytes());
            ensure!(names == is_shown, "casitas {args:?} names {}: {names}", story.stream);
        }
        let hashes = hidden_hashes(&shown).with_context(|| format!("casitas {args:?}"))?;
        ensure!((hashes > 0) == is_user, "casitas {args:?} hides {hashes} hashes");
        hidden += hashes;
    }
    Ok((looks.len(), hidden))
}

/// With `--reveal`: all of it is there, and each time one record of it. Answers how often something was revealed.
fn revealed(system: &System, person: &Story, user: &Story) -> Result<usize> {
    let looks: [(&[&str], &Story, &[String]); 4] = [
        (&["events", "show", person.last()], person, &person.places[person.places.len() - 1..]),
        (&["events", "state", "legal", &person.stream], person, &person.places),
        (&["events", "show", user.last()], user, &user.places),
        (&["events", "list", "--stream", &user.stream], user, &user.places),
    ];
    for (args, story, places) in looks {
        let why = fresh("question");
        let shown = written(system, &[args, &["--reveal", "--reason", &why]].concat())?;
        let words = story.words.found_in(&shown).len();
        ensure!(words == story.words.0.len(), "casitas {args:?} reveals {words} of {} words", story.words.0.len());
        hidden_hashes(&shown).with_context(|| format!("casitas {args:?} --reveal"))?;

        let records = reveals(system)?;
        let ours: Vec<&Value> = records.iter().filter(|record| record["reason"] == why).collect();
        let [record] = &ours[..] else { bail!("casitas {args:?} --reveal: {} records: {ours:?}", ours.len()) };
        let is_it = record["verb"] == args[..2].join(" ") && record["events"] == json!(places);
        ensure!(is_it, "casitas {args:?} --reveal was recorded as {record}");
        let uid = rustix::process::getuid().as_raw();
        let by = record["by"].as_str().unwrap_or_default();
        ensure!(by.ends_with(&format!("({uid})")) || by == format!("uid {uid}"), "not by who did it, {uid}: {record}");
    }
    Ok(looks.len())
}
