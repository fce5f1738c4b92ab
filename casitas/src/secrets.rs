//! The files of `casitas secrets init`: made once, at random, never overwritten, one secret a file.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use adapters::rabbitmq::{BrokerUser, PROJECTOR, WORKER, definitions_json};
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{EncodePrivateKey, spki::der::pem::LineEnding};
use ports::MasterKey;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::anchors::KEY_FILE;

/// Passwords, one file each.
const PASSWORDS: &[&str] = &[
    "postgres_password",
    "db_command",
    "db_query",
    "db_projector",
    "db_worker",
    "redis_command",
    "redis_query",
    "redis_projector",
    "redis_worker",
    "rabbitmq_projector",
    "rabbitmq_worker",
    "ops_token",
];

/// Who may read the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readable {
    Owner,
    Group,
    World,
}

impl Readable {
    fn modes(self) -> (u32, u32) {
        match self {
            Self::Owner => (0o600, 0o700),
            Self::Group => (0o640, 0o750),
            Self::World => (0o644, 0o755),
        }
    }
}

/// A folder of secrets.
#[derive(Clone, Debug)]
pub struct Secrets {
    folder: PathBuf,
}

impl Secrets {
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    pub fn read(&self, name: &str) -> Result<String> {
        let path = self.folder.join(name);
        let text = fs::read_to_string(&path).with_context(|| {
            format!("the secret {} cannot be read: run `casitas secrets init {}`", path.display(), self.folder.display())
        })?;
        Ok(text.trim().to_owned())
    }

    pub fn master_key(&self) -> Result<MasterKey> {
        MasterKey::from_base64(&self.read("master.key")?).map_err(|error| anyhow::anyhow!("{}", error.chain()))
    }
}

/// The keys that the embedded mode needs; made with the data folder.
pub fn init_keys(folder: &Path) -> Result<Secrets> {
    let files = Files { folder, readable: Readable::Owner };
    files.folder()?;
    files.keys()?;
    Ok(Secrets::at(folder))
}

/// Copies the master key into a folder of keys.
pub fn keep_master_key(secrets: &Secrets, folder: &Path) -> Result<()> {
    let files = Files { folder, readable: Readable::Owner };
    files.folder()?;
    files.make("master.key", &secrets.read("master.key")?).map(drop)
}

/// Everything that the distributed mode needs. `mount` is where the servers see the folder, when it is elsewhere than here.
pub fn init(folder: &Path, readable: Readable, mount: Option<&Path>) -> Result<Vec<String>> {
    let files = Files { folder, readable };
    files.folder()?;
    let mut made = vec![];
    for name in PASSWORDS {
        if files.make(name, &random_password())? {
            made.push((*name).to_owned());
        }
    }
    made.extend(files.keys()?);
    let secrets = Secrets::at(folder);
    if files.make("redis.acl", &redis_acl(&secrets)?)? {
        made.push("redis.acl".into());
    }
    let users = [
        BrokerUser::new(PROJECTOR, &secrets.read("rabbitmq_projector")?),
        BrokerUser::new(WORKER, &secrets.read("rabbitmq_worker")?),
    ];
    let definitions = serde_json::to_string_pretty(&definitions_json(&users))?;
    if files.make("rabbitmq-definitions.json", &definitions)? {
        made.push("rabbitmq-definitions.json".into());
    }
    let seen = mount.unwrap_or(folder).join("rabbitmq-definitions.json");
    if files.make("rabbitmq.conf", &rabbitmq_conf(&seen))? {
        made.push("rabbitmq.conf".into());
    }
    Ok(made)
}

struct Files<'a> {
    folder: &'a Path,
    readable: Readable,
}

impl Files<'_> {
    fn folder(&self) -> Result<()> {
        let mode = self.readable.modes().1;
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(self.folder)
            .and_then(|()| fs::set_permissions(self.folder, Permissions::from_mode(mode)))
            .with_context(|| format!("the folder {} cannot be made", self.folder.display()))
    }

    /// Writes a file unless it exists; answers whether it was written.
    fn make(&self, name: &str, content: &str) -> Result<bool> {
        let path = self.folder.join(name);
        if path.exists() {
            return Ok(false);
        }
        let mode = self.readable.modes().0;
        let partial = self.folder.join(format!(".{name}.partial"));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&partial)?;
            file.write_all(content.as_bytes())?;
            file.sync_all()?;
            fs::set_permissions(&partial, Permissions::from_mode(mode))?;
            fs::rename(&partial, &path)
        })();
        written.with_context(|| format!("the secret {} cannot be written", path.display()))?;
        Ok(true)
    }

    fn keys(&self) -> Result<Vec<String>> {
        let mut made = vec![];
        if self.make("master.key", &STANDARD.encode(rand::random::<[u8; 32]>()))? {
            made.push("master.key".to_owned());
        }
        // For heads of the logs that are kept elsewhere: a key of its own, which no server is given.
        if !self.folder.join(KEY_FILE).exists() {
            let key = SigningKey::from_bytes(&rand::random());
            self.make(KEY_FILE, &key.to_pkcs8_pem(LineEnding::LF).context("the anchor key cannot be encoded")?)?;
            made.push(KEY_FILE.to_owned());
        }
        let (pem, jwks) = (self.folder.join("jwt.pem"), self.folder.join("jwks.json"));
        match (pem.exists(), jwks.exists()) {
            (true, true) => {}
            (false, false) => {
                let key = SigningKey::from_bytes(&rand::random());
                let private = key.to_pkcs8_pem(LineEnding::LF).context("the token key cannot be encoded")?;
                self.make("jwks.json", &jwks_of(&key))?;
                self.make("jwt.pem", &private)?;
                made.extend(["jwks.json".to_owned(), "jwt.pem".to_owned()]);
            }
            _ => {
                bail!("{} has only one of jwt.pem and jwks.json: bring the other back, or remove it", self.folder.display())
            }
        }
        Ok(made)
    }
}

/// The public key as a JWKS; `kid` is the RFC 7638 thumbprint.
fn jwks_of(key: &SigningKey) -> String {
    let x = URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes());
    let thumbprint = Sha256::digest(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#));
    let kid = URL_SAFE_NO_PAD.encode(thumbprint);
    json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig", "alg": "EdDSA"}]}).to_string()
}

/// 256 bits as URL-safe text.
fn random_password() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// The default user is off; each role has only what its adapters send.
fn redis_acl(secrets: &Secrets) -> Result<String> {
    let commands: Vec<String> = adapters::redis::ACL_COMMANDS.iter().map(|command| format!("+{command}")).collect();
    let mut acl = String::from("user default off\n");
    for role in ["command", "query", "projector", "worker"] {
        let password = secrets.read(&format!("redis_{role}"))?;
        acl.push_str(&format!(
            "user {role} on >{password} ~{}* &{} -@all {}\n",
            adapters::redis::KEY_PREFIX,
            adapters::redis::HINTS_CHANNEL,
            commands.join(" ")
        ));
    }
    // Reads counters and keys, changes nothing: for `redis-cli` by the operator.
    let operator = secrets.read("ops_token")?;
    acl.push_str(&format!(
        "user operator on >{operator} ~{}* -@all +ping +info +scan +keys +type +ttl +hgetall +hget +hlen +dbsize +flushall +auth +hello\n",
        adapters::redis::KEY_PREFIX
    ));
    Ok(acl)
}

fn rabbitmq_conf(definitions: &Path) -> String {
    format!("load_definitions = {}\nloopback_users = none\ndisk_free_limit.absolute = 50MB\n", definitions.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_made_once_and_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secrets");
        assert!(!init(&path, Readable::Owner, None).expect("made").is_empty());
        let before = Secrets::at(&path).read("db_command").expect("readable");
        assert!(before.len() >= 32);
        assert_eq!(init(&path, Readable::Owner, None).expect("made"), Vec::<String>::new());
        assert_eq!(Secrets::at(&path).read("db_command").expect("readable"), before);
        let mode = fs::metadata(path.join("jwt.pem")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_token_key_signs_what_its_jwks_verifies() {
        let folder = tempfile::tempdir().expect("a folder");
        let secrets = init_keys(folder.path()).expect("made");
        let verifier = web::TokenVerifier::new(&secrets.read("jwks.json").expect("readable")).expect("a JWKS");
        let kid = verifier.first_kid().expect("a kid");
        let signer = web::TokenSigner::new(&secrets.read("jwt.pem").expect("readable"), kid).expect("a key");
        let user = uuid::Uuid::now_v7();
        let (token, _) = signer.issue(user, 3, domain::Timestamp::now()).expect("a token");
        let claims = verifier.verify(&token).expect("valid");
        assert_eq!((claims.sub, claims.epoch), (user, 3));
        assert!(verifier.verify(&format!("{token}x")).is_none());
    }
}
