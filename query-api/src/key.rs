//! The canonical text of a query's parameters: what is absent is left out, and different parameters never read the same.

use serde::Serialize;
use serde_json::Value;

pub(crate) fn canonical(name: &str, parameters: &impl Serialize) -> String {
    let mut text = format!("{name}?");
    if let Ok(Value::Object(fields)) = serde_json::to_value(parameters) {
        fields.iter().for_each(|(name, value)| put(&mut text, name, value));
    }
    text.pop();
    text
}

fn put(text: &mut String, name: &str, value: &Value) {
    match value {
        Value::Null => return,
        Value::Object(fields) => {
            fields.iter().for_each(|(inner, value)| put(text, &format!("{name}.{inner}"), value));
            return;
        }
        Value::Array(items) if items.is_empty() => return,
        Value::String(string) => {
            text.push_str(name);
            text.push('=');
            escape(text, string);
        }
        Value::Array(_) | Value::Bool(_) | Value::Number(_) => {
            text.push_str(name);
            text.push('=');
            escape(text, &value.to_string());
        }
    }
    text.push('&');
}

/// Keys are read by people and stored by servers: plain characters stay, the rest is percent-encoded.
fn escape(text: &mut String, value: &str) {
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b',' | b':' => text.push(char::from(byte)),
            _ => {
                use std::fmt::Write;
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn different_parameters_never_read_the_same() {
        let keys = [
            json!({"city": "a", "limit": 50}),
            json!({"city": "a&limit=50"}),
            json!({"city": null, "limit": 50}),
            json!({"city": "", "limit": 50}),
            json!({"filter": {"city": "a"}, "limit": 50}),
            json!({"amenities": ["a", "b"]}),
            json!({"amenities": ["a,b"]}),
        ]
        .map(|parameters| canonical("list", &parameters));
        let distinct: std::collections::BTreeSet<&String> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len(), "{keys:?}");
        assert_eq!(canonical("list", &json!({"city": null, "limit": 50})), "list?limit=50");
        assert_eq!(canonical("list", &json!({})), "list");
    }
}
