//! `host:port` as it stands in the configuration.

use ports::{Error, Result};

/// Splits `host:port`; an IPv6 host stands in brackets.
pub(crate) fn host_and_port(what: &str, address: &str) -> Result<(String, u16)> {
    let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    match parts {
        Some((host, port)) if !host.is_empty() => Ok((host.trim_matches(['[', ']']).to_owned(), port)),
        _ => Err(Error::Rejected { what: format!("the address of {what}: {address:?} is not host:port"), source: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_and_port_is_an_address() {
        assert_eq!(host_and_port("x", "redis:6379").expect("valid"), ("redis".into(), 6379));
        assert_eq!(host_and_port("x", "[::1]:6379").expect("valid"), ("::1".into(), 6379));
        for wrong in ["redis", ":6379", "redis:", "redis:99999", ""] {
            assert!(host_and_port("x", wrong).is_err(), "{wrong}");
        }
    }
}
