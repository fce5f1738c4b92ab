//! `casitas`: the only product binary. Without a subcommand it serves everything in one process on SQLite.

mod anchors;
mod config;
mod demo;
mod exit;
mod interrupt;
mod openapi;
mod operator;
mod ops;
mod output;
mod platform;
mod roles;
mod secrets;
mod socket;
mod telemetry;
mod transfer;

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adapters::postgres::{Databases, PostgresServer, RolePasswords, migrate};
use adapters::sqlite::DataFolder;
use anyhow::{Context, Result};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use serde_json::json;
use tokio::sync::mpsc;

use config::Settings;
use operator::{Events, Operator, Projections, Refusal, Users, Verb};
use output::{Output, Printer};
use platform::{Platform, Role};
use secrets::{Readable, Secrets};

/// Threads free what others allocated at every append and read; decision 0011 has what that costs glibc's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rental management, event-sourced: `casitas` alone serves everything in one process on SQLite.
#[derive(Parser)]
#[command(name = "casitas", version, arg_required_else_help = false)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
    /// Load the demo data into an empty store and allow the demo logins (with `serve`).
    #[arg(long, global = true)]
    demo: bool,
    /// How rows are shown; a table on a terminal, ndjson into a pipe.
    #[arg(short, long, value_enum, global = true)]
    output: Option<Output>,
}

#[derive(Subcommand)]
#[allow(clippy::enum_variant_names, reason = "the names are the subcommands")]
enum Command {
    /// Everything in one process, on SQLite (what a bare `casitas` does).
    #[command(after_help = "Example:\n  casitas serve --data-dir ./casitas-data --listen 127.0.0.1:8080")]
    Serve,
    /// Answer command POSTs (distributed).
    #[command(after_help = "Example:\n  casitas command-api --listen 127.0.0.1:8081")]
    CommandApi,
    /// Answer cached GETs (distributed).
    #[command(after_help = "Example:\n  casitas query-api --listen 127.0.0.1:8082")]
    QueryApi,
    /// Follow the logs: projections, policies, timers, job dispatch (distributed).
    #[command(after_help = "Example:\n  casitas projector --ops-listen 127.0.0.1:9090")]
    Projector,
    /// Render reports (distributed).
    #[command(after_help = "Example:\n  casitas report-worker --worker-slots 32")]
    ReportWorker,
    /// Make or update databases, roles, tables (distributed; logs in as the owner).
    #[command(after_help = "Example:\n  casitas migrate --postgres db.internal:5432 --secrets-dir ./secrets")]
    Migrate,
    /// The secrets of a distributed system.
    #[command(subcommand)]
    Secrets(SecretsVerb),
    /// Fill a store.
    #[command(subcommand)]
    Seed(SeedVerb),
    /// Print the OpenAPI document.
    #[command(after_help = "Example:\n  casitas openapi > openapi.json")]
    Openapi,
    /// Make a data folder from a backup (embedded).
    Restore(transfer::RestoreArgs),
    /// Print what makes a shell complete commands and flags.
    #[command(
        after_help = "Examples:\n  casitas completions bash > ~/.local/share/bash-completion/completions/casitas\n  casitas completions zsh > \"${fpath[1]}/_casitas\""
    )]
    Completions { shell: clap_complete::Shell },
    /// Print the manual page, or write one for each command into a folder.
    #[command(after_help = "Examples:\n  casitas man | man -l -\n  casitas man ~/.local/share/man/man1")]
    Man { folder: Option<PathBuf> },
    #[command(flatten)]
    Operator(Verb),
}

#[derive(Subcommand)]
enum SecretsVerb {
    /// Make every secret that is not there yet, at random, one file each.
    #[command(after_help = "Example:\n  casitas secrets init ./secrets")]
    Init {
        folder: PathBuf,
        /// 0640 instead of 0600.
        #[arg(long, conflicts_with = "world_readable")]
        group_readable: bool,
        /// 0644: for containers with users of their own, on a volume that nobody else sees.
        #[arg(long)]
        world_readable: bool,
        /// Where the servers see the folder, when elsewhere.
        #[arg(long, env = "CASITAS_SECRETS_MOUNT")]
        mount: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum SeedVerb {
    /// A believable portfolio and the demo logins, into an empty store.
    #[command(after_help = "Example:\n  casitas seed demo --units 300 --years 3")]
    Demo {
        #[arg(long, default_value_t = 300)]
        units: u32,
        /// Years of ledgers.
        #[arg(long, default_value_t = 3)]
        years: u32,
        /// The same seed gives the same data.
        #[arg(long, default_value_t = 42)]
        seed: u64,
    },
}

fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot start: {error}");
            return ExitCode::from(exit::FAILED);
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(code_of(&error))
        }
    }
}

/// The command line. What every verb takes is in its long help only, so that the short one fits a screen.
fn command_line() -> clap::Command {
    Cli::command().mut_args(|arg| match arg.get_id().as_str() {
        "output" => arg,
        _ if arg.is_global_set() => arg.hide_short_help(true).hide_env_values(true),
        _ => arg,
    })
}

fn parse() -> Result<Cli> {
    let command = config::with_file(command_line(), Path::new("casitas.toml"))?;
    let matches = command.clone().get_matches();
    read(&command, &matches)
}

fn read(command: &clap::Command, matches: &clap::ArgMatches) -> Result<Cli> {
    let mut cli = Cli::from_arg_matches(matches)?;
    cli.settings.said = config::said(command, matches);
    Ok(cli)
}

/// A folder that another process holds is a conflict; anything else failed.
fn code_of(error: &anyhow::Error) -> u8 {
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        return refusal.code;
    }
    let held = format!("{error:#}").contains("another casitas holds") || error.is::<demo::NotEmpty>();
    if held { exit::CONFLICT } else { exit::FAILED }
}

async fn run(cli: Cli) -> Result<u8> {
    let settings = cli.settings;
    telemetry::init_logs(&settings)?;
    match cli.command {
        None | Some(Command::Serve) => {
            let demo = cli.demo.then(demo::Plan::default);
            roles::serve(&settings, demo).await?;
        }
        Some(Command::CommandApi) => roles::command_api(&settings).await?,
        Some(Command::QueryApi) => roles::query_api(&settings).await?,
        Some(Command::Projector) => roles::projector_role(&settings).await?,
        Some(Command::ReportWorker) => roles::report_worker_role(&settings).await?,
        Some(Command::Migrate) => migrate_all(&settings, cli.output).await?,
        Some(Command::Secrets(SecretsVerb::Init { folder, group_readable, world_readable, mount })) => {
            let readable = match (group_readable, world_readable) {
                (true, _) => Readable::Group,
                (_, true) => Readable::World,
                _ => Readable::Owner,
            };
            let made = secrets::init(&folder, readable, mount.as_deref())?;
            let (folder, count) = (folder.display().to_string(), made.len());
            output::one(cli.output, json!({"folder": folder, "made": made}), || match count {
                0 => eprintln!("{folder}: every secret was there already"),
                count => eprintln!("{folder}: made {count} secrets"),
            });
        }
        Some(Command::Seed(SeedVerb::Demo { units, years, seed })) => {
            seed_demo(&settings, demo::Plan { units, years, seed }, cli.output).await?;
        }
        Some(Command::Completions { shell }) => {
            let mut script = vec![];
            clap_complete::generate(shell, &mut command_line(), "casitas", &mut script);
            output::text(cli.output, "script", &script)?;
        }
        Some(Command::Man { folder: None }) => {
            let mut page = vec![];
            clap_mangen::Man::new(command_line()).render(&mut page)?;
            output::text(cli.output, "page", &page)?;
        }
        Some(Command::Man { folder: Some(folder) }) => {
            clap_mangen::generate_to(command_line(), &folder)
                .with_context(|| format!("the pages cannot be written to {}", folder.display()))?;
            output::one(cli.output, json!({"folder": folder.display().to_string()}), || {});
        }
        // JSON in any case; a row is one line of it.
        Some(Command::Openapi) => match cli.output {
            Some(Output::Ndjson) => println!("{}", openapi::document().to_json()?),
            None | Some(Output::Table | Output::Json) => println!("{}", openapi::document().to_pretty_json()?),
        },
        Some(Command::Restore(args)) => {
            let mut printer = Printer::new(cli.output, false);
            let exit = transfer::restore(&settings, &args, &mut printer).await?;
            printer.finish();
            return Ok(exit);
        }
        Some(Command::Operator(verb)) => return operate(&settings, verb, cli.output).await,
    }
    Ok(exit::OK)
}

async fn migrate_all(settings: &Settings, output: Option<Output>) -> Result<()> {
    let address = settings
        .postgres
        .as_deref()
        .context("set CASITAS_POSTGRES: host:port of Postgres (embedded stores migrate themselves)")?;
    let secrets =
        Secrets::at(settings.secrets_dir.clone().context("set CASITAS_SECRETS_DIR: the folder of `casitas secrets init`")?);
    let chained = |error: ports::Error| anyhow::anyhow!("{}", error.chain());
    let owner = PostgresServer::new(address, "casitas_owner", &secrets.read("postgres_password")?).map_err(chained)?;
    #[cfg(feature = "seeded-bugs")]
    let owner = owner.with_seeded_bug(settings.seeded_bug.and_then(config::SeededBug::of_postgres));
    let passwords = RolePasswords {
        command: secrets.read("db_command")?,
        query: secrets.read("db_query")?,
        projector: secrets.read("db_projector")?,
        worker: secrets.read("db_worker")?,
    };
    migrate(&owner, &passwords, &Databases::all()).await.map_err(chained)?;
    output::one(output, json!({"server": address, "result": "up to date"}), || {
        eprintln!("the databases on {address} are up to date");
    });
    Ok(())
}

/// Distributed, the projector runs elsewhere; embedded, it runs here for as long as the seeding takes.
async fn seed_demo(settings: &Settings, plan: demo::Plan, output: Option<Output>) -> Result<()> {
    let platform = Platform::open(settings, Role::Operator).await?;
    let handler = platform.handler()?;
    let shutdown = tokio_util::sync::CancellationToken::new();
    let projector = (!platform.distributed)
        .then(|| roles::projector(&platform, settings, handler.clone()))
        .transpose()?
        .map(|projector| tokio::spawn(projector.run(shutdown.clone())));
    let summary = demo::seed(&platform, &handler, &plan, demo::show_progress).await;
    shutdown.cancel();
    if let Some(projector) = projector {
        projector.await?;
    }
    let summary = summary?;
    output::one(output, json!(summary), || println!("demo data loaded: {summary}"));
    Ok(())
}

async fn operate(settings: &Settings, mut verb: Verb, output: Option<Output>) -> Result<u8> {
    if let Verb::Users(Users::Add { password, .. }) = &mut verb {
        *password = Some(read_password()?);
    }
    let streaming = verb.is_endless();
    let endless = match &verb {
        // A tail with an end is over when that is reached.
        Verb::Events(Events::Tail { filter, .. }) => filter.until.is_none() && filter.until_position.is_none(),
        _ => false,
    };
    let output = match &verb {
        Verb::Projections(Projections::Rebuild { json: true, .. }) => Some(Output::Ndjson),
        _ => output,
    };
    Output::check(output, endless)?;
    let mut printer = Printer::new(output, streaming);
    let exit = match verb {
        Verb::Events(Events::Export(export)) => transfer::export(settings, export, &mut printer).await,
        Verb::Events(Events::Import(import)) => transfer::import(settings, &import, &mut printer).await,
        Verb::Events(Events::Renew(renew)) => match check_store(settings) {
            Ok(()) => transfer::renew(settings, &renew, &mut printer).await,
            Err(refusal) => Err(refusal.into()),
        },
        Verb::Events(Events::Replay(replay)) => interrupt::replay(settings, replay, &mut printer).await,
        verb @ (Verb::Doctor { rows: true, .. } | Verb::Projections(Projections::Rebuild { .. })) => {
            interrupt::rebuild(settings, verb, &mut printer).await
        }
        verb => perform(settings, verb, |row| printer.row(row)).await,
    };
    // Also of a verb that was refused in the end.
    printer.finish();
    exit
}

/// Runs a verb in the `serve` that holds the folder, or here; whoever takes the rows says whether it goes on.
async fn perform(settings: &Settings, verb: Verb, mut row: impl FnMut(serde_json::Value) -> bool) -> Result<u8> {
    if !settings.is_distributed()
        && let Some(exit) = socket::ask(&settings.data_dir, &verb, &mut row).await?
    {
        return Ok(exit);
    }
    if !verb.begins_a_store() {
        check_store(settings)?;
    }
    let platform = match Platform::open(settings, Role::Operator).await {
        Err(error) if matches!(verb, Verb::Doctor { .. }) && !settings.is_distributed() => {
            row(operator::unopened(&error));
            return Ok(exit::DEPENDENCY_DOWN);
        }
        opened => opened?,
    };
    let handler = verb.writes().then(|| platform.handler()).transpose()?;
    let (rows, mut waiting) = mpsc::channel(64);
    let by = operator::account(rustix::process::getuid().as_raw());
    let operator = Operator::new(platform, handler, None, by);
    let work = tokio::spawn(async move { operator.run(verb, rows).await });
    while let Some(next) = waiting.recv().await {
        if !row(next) {
            // It notices that nobody listens any more, and puts away what it has begun.
            drop(waiting);
            let _ = work.await;
            return Ok(exit::OK);
        }
    }
    work.await?
}

/// A verb that looks at a store makes none.
fn check_store(settings: &Settings) -> Result<(), Refusal> {
    if settings.is_distributed() || DataFolder::has_store(&settings.data_dir) {
        return Ok(());
    }
    let message = format!(
        "there is no store in {}: say where it is with --data-dir, or begin one with `casitas serve`",
        settings.data_dir.display()
    );
    Err(Refusal::new(exit::NOT_FOUND, message))
}

/// From the terminal, or the first line of standard input.
fn read_password() -> Result<String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprint!("password (at least 12 characters; shown as you type): ");
        std::io::stderr().flush()?;
    }
    let mut line = String::new();
    stdin.lock().read_line(&mut line).context("the password cannot be read from standard input")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, String)>) {
        let path = format!("{path} {}", command.get_name());
        let verbs: Vec<_> = command.get_subcommands().filter(|verb| verb.get_name() != "help").collect();
        if verbs.is_empty() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            found.push((path, help));
            return;
        }
        verbs.into_iter().for_each(|verb| leaves(verb, &path, found));
    }

    #[test]
    fn the_help_of_every_verb_has_an_example_that_is_a_call_of_it() {
        let mut found = vec![];
        leaves(&Cli::command(), "", &mut found);
        assert!(found.len() > 15, "{} verbs", found.len());
        for (path, help) in found {
            assert!(help.contains(path.trim()), "{path} --help has no example that calls it: {help:?}");
            for example in help.lines().filter_map(|line| line.split_once("casitas ")).map(|(_, call)| call) {
                assert_is_a_call("--help", example);
            }
        }
    }

    fn words_of(call: &str) -> impl Iterator<Item = String> {
        std::iter::once("casitas".to_owned()).chain(shell_words(call))
    }

    fn assert_is_a_call(place: &str, call: &str) {
        let parsed = Cli::command().try_get_matches_from(words_of(call));
        assert!(parsed.is_ok(), "{place}: {call}: {}", parsed.err().map(|error| error.to_string()).unwrap_or_default());
    }

    /// What follows `casitas` in the code blocks of a page, each with its place.
    fn documented_calls(page: &str) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(Path::new("..").join(page)).expect("the page is there");
        let (mut found, mut in_code) = (vec![], false);
        for (at, line) in text.lines().enumerate() {
            if line.starts_with("```") {
                in_code = !in_code;
                continue;
            }
            let line = line.strip_prefix("$ ").unwrap_or(line);
            let call = line.strip_prefix("casitas ").or_else(|| line.strip_prefix("cargo run --release -- "));
            if let Some(call) = call.filter(|_| in_code) {
                found.push((format!("{page}:{}", at + 1), call.to_owned()));
            }
        }
        found
    }

    #[test]
    fn every_call_that_the_readme_or_the_operators_page_shows_is_one() {
        let calls: Vec<_> = ["README.md", "docs/operations.md"].into_iter().flat_map(documented_calls).collect();
        assert!(calls.len() > 40, "{} calls", calls.len());
        for (place, call) in calls {
            // An id that is cut short stands for a whole one.
            assert_is_a_call(&place, &call.replace("0192…", "0192d3c4-0000-7000-8000-000000000001"));
        }
    }

    /// The words of a simple call, up to where the shell takes over.
    fn shell_words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quoted) = (vec![], String::new(), false);
        for letter in line.chars() {
            match letter {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(std::mem::take(&mut word)),
                '|' | '>' | '&' if !quoted => break,
                '#' if !quoted && word.is_empty() => break,
                letter => word.push(letter),
            }
        }
        words.push(word);
        words.retain(|word| !word.is_empty());
        words
    }

    /// The command that a call ends with when it is interrupted; a replay at units:7.
    fn goes_on(call: &str) -> String {
        let command = command_line();
        let matches = command.clone().try_get_matches_from(words_of(call)).expect("a call");
        let cli = read(&command, &matches).expect("understood");
        let said = cli.settings.said;
        let Some(Command::Operator(verb)) = cli.command else { panic!("{call} is no verb of an operator") };
        match verb {
            Verb::Projections(rebuild) => rebuild.again(&said).expect("something of it stays"),
            Verb::Events(Events::Export(export)) => export.again(&said),
            Verb::Events(Events::Import(import)) => import.again(&said),
            Verb::Events(Events::Replay(replay)) => {
                let text = operator::Replay { settings: said, ..replay }.again("units:7");
                text.split_once("with: ").expect("a command").1.to_owned()
            }
            _ => panic!("{call} is not interrupted"),
        }
    }

    #[test]
    fn what_was_interrupted_goes_on_with_all_that_was_said() {
        for (call, command) in [
            (
                "projections rebuild units leases --json --park --force --switch manual --parallel 2 --data-dir 'a folder'",
                "projections rebuild units leases --parallel 2 --switch manual --force --park --json --data-dir 'a folder'",
            ),
            ("--data-dir d projections rebuild --all", "projections rebuild --all --data-dir d"),
            (
                "events export 'all of it.ndjson' -o ndjson --zstd --keys k",
                "events export 'all of it.ndjson' --resume --zstd --keys k --output ndjson",
            ),
            (
                "events export --format cloudevents cloud.ndjson --postgres db:5432",
                "events export cloud.ndjson --resume --format cloudevents --postgres db:5432",
            ),
            (
                "events import all.ndjson --without-keys --postgres db:5432",
                "events import all.ndjson --resume --without-keys --postgres db:5432",
            ),
            (
                "events replay --context units --rate 5 --until 9 --into 'https://example.com/hook?a=1&b=2'",
                "events replay --into 'https://example.com/hook?a=1&b=2' --from units:7 --context units --until 9 --rate 5",
            ),
            ("events replay --rate 5 --into projection:units", "events replay --into projection:units --rate 5"),
        ] {
            assert_eq!(goes_on(call), format!("casitas {command}"));
            assert_is_a_call("interrupted", command);
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
