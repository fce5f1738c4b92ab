//! A private Nginx over the templates that compose uses too.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{Server, delegate_to_server};
use crate::http;
use crate::process::{Account, Program, find_program, private_dir, private_file};
use crate::workspace;

const READY_WITHIN: Duration = Duration::from_secs(10);
/// Ports below this are root's.
const FIRST_ORDINARY_PORT: u16 = 1024;

/// The template variables; `nginx/README.md` says what each means.
#[derive(Clone, Debug)]
pub struct NginxOptions {
    pub port: u16,
    /// Loopback ports of the command-api and of the query replicas.
    pub command_ports: Vec<u16>,
    pub query_ports: Vec<u16>,
    pub api_rate: String,
    pub api_burst: u32,
    pub login_rate: String,
    pub login_burst: u32,
    pub connections: u32,
    /// Whether Nginx answers the public list by itself for the rest of a second.
    pub micro_cache: bool,
    /// Addresses or networks that may call the operator routes.
    pub operator_allow: Vec<String>,
    /// Certificate chain and key, PEM: adds a TLS listener on this port.
    pub tls: Option<(u16, PathBuf, PathBuf)>,
}

impl NginxOptions {
    /// The documented defaults.
    pub fn new(port: u16, command_ports: Vec<u16>, query_ports: Vec<u16>) -> Self {
        Self {
            port,
            command_ports,
            query_ports,
            api_rate: "50r/s".to_owned(),
            api_burst: 100,
            login_rate: "10r/m".to_owned(),
            login_burst: 10,
            connections: 100,
            micro_cache: true,
            operator_allow: vec!["127.0.0.1".to_owned()],
            tls: None,
        }
    }

    fn variables(&self, dir: &Path) -> Vec<(String, String)> {
        let servers = |ports: &[u16], settings: &str| {
            ports.iter().map(|port| format!("server 127.0.0.1:{port} {settings};")).collect::<Vec<_>>().join(" ")
        };
        let allow: Vec<String> = self.operator_allow.iter().map(|network| format!("allow {network};")).collect();
        let mut variables = vec![
            ("NGINX_LISTEN", format!("127.0.0.1:{}", self.port)),
            ("NGINX_TEMP", dir.join("temp").display().to_string()),
            ("NGINX_ACCESS_LOG", dir.join("access.log").display().to_string()),
            ("NGINX_COMMAND_SERVERS", servers(&self.command_ports, "max_fails=0")),
            ("NGINX_QUERY_SERVERS", servers(&self.query_ports, "max_fails=1 fail_timeout=1s")),
            ("NGINX_API_RATE", self.api_rate.clone()),
            ("NGINX_API_BURST", self.api_burst.to_string()),
            ("NGINX_LOGIN_RATE", self.login_rate.clone()),
            ("NGINX_LOGIN_BURST", self.login_burst.to_string()),
            ("NGINX_CONNECTIONS", self.connections.to_string()),
            ("NGINX_OPERATOR_ALLOW", allow.join(" ")),
            ("NGINX_REAL_IP", String::new()),
            ("NGINX_MICRO_CACHE", if self.micro_cache { "on" } else { "off" }.to_owned()),
        ];
        if let Some((port, certificate, key)) = &self.tls {
            variables.push(("NGINX_TLS_LISTEN", format!("127.0.0.1:{port}")));
            variables.push(("NGINX_TLS_CERTIFICATE", certificate.display().to_string()));
            variables.push(("NGINX_TLS_KEY", key.display().to_string()));
        }
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

#[derive(Debug)]
pub struct Nginx {
    server: Server,
}

impl Nginx {
    /// Renders the templates into `dir` and starts the server.
    ///
    /// # Errors
    /// When Nginx is not installed, refuses the configuration or does not get ready.
    pub fn start(dir: &Path, options: &NginxOptions) -> Result<Self> {
        let program = find_program(&["nginx"]).context("Nginx is not installed")?;
        let account = if options.port < FIRST_ORDINARY_PORT { None } else { Account::to_drop_to("www-data") };
        private_dir(dir, account.as_ref())?;
        for folder in ["conf.d", "temp"] {
            private_dir(&dir.join(folder), account.as_ref())?;
        }
        let config = dir.join("nginx.conf");
        private_file(&config, MAIN_CONFIG.as_bytes(), account.as_ref())?;
        let templates = workspace::root().join("nginx");
        let mut folders = vec![templates.join("templates")];
        if options.tls.is_some() {
            folders.push(templates.join("tls"));
        }
        for (name, text) in render_templates(&folders, &options.variables(dir))? {
            private_file(&dir.join("conf.d").join(name), text.as_bytes(), account.as_ref())?;
        }
        let program = Program::new("nginx", program, dir.join("nginx.log"))
            .args(["-p", utf8(dir)?, "-c", utf8(&config)?, "-e", utf8(&dir.join("error.log"))?])
            .clean_env()
            .dir(dir)
            .account(account);
        program.clone().args(["-t", "-q"]).run()?;
        // SIGQUIT lets open requests end.
        let server = Server::new(program, options.port, Signal::QUIT, Duration::from_secs(15));
        let mut nginx = Self { server };
        nginx.start_again()?;
        Ok(nginx)
    }

    /// Starts the stopped or killed server on the same port.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start_again(&mut self) -> Result<()> {
        // Any answer will do, even one that says that nobody is behind it yet.
        self.server.start_until(READY_WITHIN, |port| Ok(http::get(port, "/livez").is_ok()))
    }

    /// Lets open requests end.
    ///
    /// # Errors
    /// When something of it survives.
    pub fn stop(&mut self) -> Result<()> {
        self.server.stop().map(drop)
    }

    /// SIGKILL for the master and its workers.
    ///
    /// # Errors
    /// When something of it survives.
    pub fn kill9(&mut self) -> Result<()> {
        self.server.kill9()
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }
}

delegate_to_server!(Nginx);

/// Fills `${NAME}` in every `*.template` of the folders: file name without the ending, and text.
///
/// # Errors
/// When a template names a variable that is not given.
pub fn render_templates(folders: &[PathBuf], variables: &[(String, String)]) -> Result<Vec<(String, String)>> {
    let mut rendered = Vec::new();
    for folder in folders {
        for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".template")) else {
                continue;
            };
            let mut text: String = without_comments(&fs::read_to_string(&path)?);
            for (variable, value) in variables {
                text = text.replace(&format!("${{{variable}}}"), value);
            }
            let left = text.split("${").nth(1).map(|rest| rest.split('}').next().unwrap_or_default());
            ensure!(left.is_none(), "{}: {} is not given", path.display(), left.unwrap_or_default());
            rendered.push((name.to_owned(), text));
        }
    }
    Ok(rendered)
}

fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect()
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// What the official image's own nginx.conf gives to the templates.
const MAIN_CONFIG: &str = "\
daemon off;
pid nginx.pid;
worker_processes auto;
events {
    worker_connections 4096;
}
http {
    include conf.d/*.conf;
}
";
