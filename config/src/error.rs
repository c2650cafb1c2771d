//! Errors: field, value, what is allowed, where it came from.

use std::{fmt, path::PathBuf};

use figment::{Figment, error::Kind};

use crate::flags::{FLAGS, SET};

/// Something in the configuration is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field has a value that cannot be.
    #[error("{field} is wrong. value=`{value}`, allowed: {allowed}, from: {origin}")]
    Value {
        /// The field, with the names of the tables around it.
        field: String,
        /// What was said.
        value: String,
        /// What may be said.
        allowed: String,
        /// Where it was said.
        origin: Origin,
    },
    /// There is no such field.
    #[error("there is no such field. field=`{field}`, allowed: {allowed}, from: {origin}")]
    Unknown {
        /// The field, with the names of the tables around it.
        field: String,
        /// The fields that are there.
        allowed: String,
        /// Where it was said.
        origin: Origin,
    },
    /// The file cannot be read.
    #[error("the configuration file cannot be read. file=`{}`: {reason}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Where a value was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag of the command line.
    Flag(String),
    /// A variable of the environment.
    Environment(String),
    /// A file.
    File(PathBuf),
    /// Nowhere: it is built in.
    BuiltIn,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::File(file) => write!(f, "file {}", file.display()),
            Self::BuiltIn => f.write_str("built-in value"),
        }
    }
}

/// The prefix of environment variables.
pub(crate) const PREFIX: &str = "MILLSTREAM_";
/// Between the names of table and field in an environment variable.
pub(crate) const SEPARATOR: &str = "__";

impl Origin {
    pub(crate) fn of(sources: &Figment, path: &[String]) -> Self {
        // A wrong field has no metadata of its own where it replaced a table: the nearest one
        // around it tells.
        let metadata = (1..=path.len())
            .rev()
            .find_map(|n| sources.find_metadata(&path[..n].join(".")));
        match metadata {
            Some(metadata) => Self::named(metadata, path),
            None => Self::BuiltIn,
        }
    }

    fn named(metadata: &figment::Metadata, path: &[String]) -> Self {
        let field = path.last().map_or("", String::as_str);
        if let Some(figment::Source::File(file)) = &metadata.source {
            return Self::File(file.clone());
        }
        match &*metadata.name {
            FLAGS => Self::Flag(format!("--{}", field.replace('_', "-"))),
            SET => Self::Flag(format!("--set {}", path.join("."))),
            name if name.contains("environment") => {
                Self::Environment(format!("{PREFIX}{}", path.join(SEPARATOR).to_uppercase()))
            }
            _ => Self::BuiltIn,
        }
    }
}

/// What a check found: a field, and what is allowed there.
pub(crate) fn wrong_value(sources: &Figment, field: &str, allowed: String) -> Error {
    let path: Vec<String> = field.split('.').map(str::to_owned).collect();
    Error::Value {
        field: field.to_owned(),
        value: value_of(sources, field),
        allowed,
        origin: Origin::of(sources, &path),
    }
}

/// What reading found.
pub(crate) fn explain(sources: &Figment, error: &figment::Error) -> Error {
    let mut path = error.path.clone();
    let origin = |path: &[String]| match &error.metadata {
        Some(metadata) => Origin::named(metadata, path),
        None => Origin::of(sources, path),
    };
    let allowed = match &error.kind {
        Kind::UnknownField(field, allowed) => {
            if path.last().is_none_or(|last| last != field) {
                path.push(field.clone());
            }
            let origin = origin(&path);
            return Error::Unknown {
                field: path.join("."),
                allowed: allowed.join(", "),
                origin,
            };
        }
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => expected.clone(),
        Kind::UnknownVariant(_, allowed) => allowed.join(", "),
        Kind::Message(_)
        | Kind::InvalidLength(..)
        | Kind::MissingField(_)
        | Kind::DuplicateField(_)
        | Kind::ISizeOutOfRange(_)
        | Kind::USizeOutOfRange(_)
        | Kind::Unsupported(_)
        | Kind::UnsupportedKey(..) => error.kind.to_string(),
    };
    let field = path.join(".");
    let value = value_of(sources, &field);
    Error::Value {
        value,
        allowed,
        origin: origin(&path),
        field,
    }
}

/// The value as it was written; a password in it is hidden.
fn value_of(sources: &Figment, field: &str) -> String {
    let Ok(value) = sources.find_value(field) else {
        return String::new();
    };
    let text = match value.as_str() {
        Some(text) => text.to_owned(),
        None => rendered(&value),
    };
    match (text.split_once("//"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}//***@{host}"),
        _ => text,
    }
}

fn rendered(value: &figment::value::Value) -> String {
    use figment::value::Value;
    match value {
        Value::String(_, text) => text.clone(),
        Value::Char(_, c) => c.to_string(),
        Value::Bool(_, yes) => yes.to_string(),
        Value::Num(_, number) => {
            let whole = number.to_i128().map(|n| n.to_string());
            let whole = whole.or_else(|| number.to_u128().map(|n| n.to_string()));
            whole
                .or_else(|| number.to_f64().map(|n| n.to_string()))
                .unwrap_or_default()
        }
        Value::Empty(..) => String::new(),
        Value::Dict(_, table) => {
            let fields: Vec<_> = table.keys().map(String::as_str).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(_, list) => {
            let items: Vec<_> = list.iter().map(rendered).collect();
            format!("[{}]", items.join(", "))
        }
    }
}
