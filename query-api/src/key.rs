//! The canonical text of a query's parameters: what is absent is left out, and different parameters never read the same.

use std::fmt::{self, Display, Write};

use serde::Serialize;
use serde::ser::{self, Impossible};
use serde_json::Value;

/// What most keys fit into.
const LENGTH: usize = 160;

pub(crate) fn canonical(name: &str, parameters: &impl Serialize) -> String {
    let mut text = String::with_capacity(LENGTH);
    text.push_str(name);
    text.push('?');
    let begin = text.len();
    let mut writer = Writer { text, path: String::new() };
    if parameters.serialize(&mut writer).is_err() {
        // A form of parameters that the writer does not know.
        writer.text.truncate(begin);
        if let Ok(Value::Object(fields)) = serde_json::to_value(parameters) {
            fields.iter().for_each(|(name, value)| put(&mut writer.text, name, value));
        }
    }
    writer.text.pop();
    writer.text
}

/// Writes parameters without building a tree of them: a key is made for every read that is not found by its address.
struct Writer {
    text: String,
    /// Names of the fields that lead to the value, with dots between.
    path: String,
}

impl Writer {
    fn pair(&mut self, value: &str) -> fmt::Result {
        if self.path.is_empty() {
            return Err(fmt::Error);
        }
        self.text.push_str(&self.path);
        self.text.push('=');
        escape(&mut self.text, value);
        self.text.push('&');
        Ok(())
    }

    /// Numbers and truth values need no escape.
    fn plain(&mut self, value: impl Display) -> fmt::Result {
        if self.path.is_empty() {
            return Err(fmt::Error);
        }
        write!(self.text, "{}={value}&", self.path)
    }
}

macro_rules! plain {
    ($($name:ident: $type:ty),*) => {$(
        fn $name(self, value: $type) -> fmt::Result {
            self.plain(value)
        }
    )*};
}

impl<'a> ser::Serializer for &'a mut Writer {
    type Ok = ();
    type Error = fmt::Error;
    type SerializeSeq = Items<'a>;
    type SerializeTuple = Items<'a>;
    type SerializeTupleStruct = Items<'a>;
    type SerializeTupleVariant = Impossible<(), fmt::Error>;
    type SerializeMap = Impossible<(), fmt::Error>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Impossible<(), fmt::Error>;

    plain! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64
    }

    fn serialize_f32(self, value: f32) -> fmt::Result {
        self.pair(&format!("{value:?}"))
    }
    fn serialize_f64(self, value: f64) -> fmt::Result {
        self.pair(&format!("{value:?}"))
    }
    fn serialize_char(self, value: char) -> fmt::Result {
        self.pair(value.encode_utf8(&mut [0; 4]))
    }
    fn serialize_str(self, value: &str) -> fmt::Result {
        self.pair(value)
    }
    fn serialize_bytes(self, _: &[u8]) -> fmt::Result {
        Err(fmt::Error)
    }
    fn serialize_none(self) -> fmt::Result {
        Ok(())
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> fmt::Result {
        value.serialize(self)
    }
    fn serialize_unit(self) -> fmt::Result {
        Ok(())
    }
    fn serialize_unit_struct(self, _: &'static str) -> fmt::Result {
        Ok(())
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> fmt::Result {
        self.pair(variant)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> fmt::Result {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> fmt::Result {
        Err(fmt::Error)
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Items<'a>, fmt::Error> {
        Ok(Items { writer: self, begun: false })
    }
    fn serialize_tuple(self, _: usize) -> Result<Items<'a>, fmt::Error> {
        self.serialize_seq(None)
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Items<'a>, fmt::Error> {
        self.serialize_seq(None)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, fmt::Error> {
        Err(fmt::Error)
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, fmt::Error> {
        Err(fmt::Error)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, fmt::Error> {
        Ok(self)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, fmt::Error> {
        Err(fmt::Error)
    }
}

impl ser::SerializeStruct for &mut Writer {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> fmt::Result {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        value.serialize(&mut **self)?;
        self.path.truncate(length);
        Ok(())
    }

    fn end(self) -> fmt::Result {
        Ok(())
    }
}

/// A list as JSON; an empty one is left out.
struct Items<'a> {
    writer: &'a mut Writer,
    begun: bool,
}

impl Items<'_> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> fmt::Result {
        let Writer { text, path } = &mut *self.writer;
        if path.is_empty() {
            return Err(fmt::Error);
        }
        match self.begun {
            true => escape(text, ","),
            false => {
                text.push_str(path);
                text.push('=');
                escape(text, "[");
                self.begun = true;
            }
        }
        escape(text, &serde_json::to_string(value).map_err(|_| fmt::Error)?);
        Ok(())
    }

    fn close(self) -> fmt::Result {
        if self.begun {
            escape(&mut self.writer.text, "]");
            self.writer.text.push('&');
        }
        Ok(())
    }
}

macro_rules! items {
    ($($kind:ident: $method:ident),*) => {$(
        impl ser::$kind for Items<'_> {
            type Ok = ();
            type Error = fmt::Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> fmt::Result {
                self.item(value)
            }
            fn end(self) -> fmt::Result {
                self.close()
            }
        }
    )*};
}
items!(SerializeSeq: serialize_element, SerializeTuple: serialize_element, SerializeTupleStruct: serialize_field);

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
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use read_models::Cursor;
    use serde_json::json;

    use super::*;

    #[derive(Default, Serialize)]
    struct Inner {
        amenities: BTreeSet<&'static str>,
        city: Option<&'static str>,
    }

    #[derive(Default, Serialize)]
    struct Outer {
        after: Option<Cursor>,
        filter: Inner,
        limit: usize,
        listed: Option<bool>,
    }

    #[test]
    fn what_the_writer_makes_is_what_the_tree_makes() {
        let inner = Inner { city: Some("São Paulo&limit=1"), amenities: ["b,\"", "a"].into() };
        let after = Some(Cursor(ports::FieldValue::Int(-5), "key/1".into()));
        for parameters in [
            Outer::default(),
            Outer { filter: inner, limit: 50, listed: Some(true), after },
            Outer { filter: Inner { city: Some(""), ..Inner::default() }, ..Outer::default() },
        ] {
            let Ok(Value::Object(fields)) = serde_json::to_value(&parameters) else { panic!("an object") };
            let mut tree = "list?".to_owned();
            fields.iter().for_each(|(name, value)| put(&mut tree, name, value));
            tree.pop();
            assert_eq!(canonical("list", &parameters), tree);
        }
    }

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
