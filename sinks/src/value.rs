//! What goes into a column and comes out of it, for both kinds of database.

use std::{cmp::Ordering, sync::Arc};

use bytes::Bytes;
use sqlx::{Arguments, Row as _, mysql::MySqlArguments, sqlite::SqliteArguments};

use crate::{Error, Result};

/// The value of one column.
///
/// ```
/// use millstream_sinks::Value;
/// assert_eq!(Value::from("a"), Value::Text("a".into()));
/// assert_eq!(Value::from(None::<i64>), Value::Null);
/// ```
#[derive(Clone, Debug)]
pub enum Value {
    /// SQL's null.
    Null,
    /// An integer.
    Int(i64),
    /// A floating point number.
    Real(f64),
    /// Text.
    Text(Arc<str>),
    /// Bytes.
    Bytes(Bytes),
}

impl Value {
    /// About how many bytes it takes in a statement.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Null => 1,
            Self::Int(_) | Self::Real(_) => 8,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Int(_) => 1,
            Self::Real(_) => 2,
            Self::Text(_) => 3,
            Self::Bytes(_) => 4,
        }
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::Real(a), Self::Real(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Bytes(a), Self::Bytes(b)) => a.cmp(b),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Value {}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Self::Int(value.into())
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Int(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value.into())
    }
}

impl From<Arc<str>> for Value {
    fn from(value: Arc<str>) -> Self {
        Self::Text(value)
    }
}

impl From<Bytes> for Value {
    fn from(value: Bytes) -> Self {
        Self::Bytes(value)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Adding a value fails only where a value cannot be written in the protocol; these can.
const ENCODES: &str = "integers, text and bytes encode in every database";

pub(crate) fn sqlite_arguments<'a>(values: impl Iterator<Item = &'a Value>) -> SqliteArguments {
    let mut arguments = SqliteArguments::default();
    arguments.reserve(values.size_hint().0, 0);
    for value in values {
        match value {
            Value::Null => arguments.add(None::<i64>),
            Value::Int(value) => arguments.add(*value),
            Value::Real(value) => arguments.add(*value),
            // By value: the text is shared with the statement, not copied.
            Value::Text(value) => arguments.add(value.clone()),
            Value::Bytes(value) => arguments.add(value.to_vec()),
        }
        .expect(ENCODES);
    }
    arguments
}

pub(crate) fn mysql_arguments<'a>(values: impl Iterator<Item = &'a Value>) -> MySqlArguments {
    let mut arguments = MySqlArguments::default();
    for value in values {
        match value {
            Value::Null => arguments.add(None::<i64>),
            Value::Int(value) => arguments.add(*value),
            Value::Real(value) => arguments.add(*value),
            Value::Text(value) => arguments.add(&**value),
            Value::Bytes(value) => arguments.add(&value[..]),
        }
        .expect(ENCODES);
    }
    arguments
}

/// One row that a query found; columns count from 0.
pub struct Row(Source);

enum Source {
    Sqlite(sqlx::sqlite::SqliteRow),
    MySql(sqlx::mysql::MySqlRow),
}

impl From<sqlx::sqlite::SqliteRow> for Row {
    fn from(row: sqlx::sqlite::SqliteRow) -> Self {
        Self(Source::Sqlite(row))
    }
}

impl From<sqlx::mysql::MySqlRow> for Row {
    fn from(row: sqlx::mysql::MySqlRow) -> Self {
        Self(Source::MySql(row))
    }
}

macro_rules! column {
    ($(#[$doc:meta])* $name:ident, $type:ty) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// When there is no such column or it holds something else.
        pub fn $name(&self, column: usize) -> Result<$type> {
            match &self.0 {
                Source::Sqlite(row) => row.try_get(column),
                Source::MySql(row) => row.try_get(column),
            }
            .map_err(|source| Error::Column { column, source })
        }
    };
}

impl Row {
    column!(
        /// The integer in a column. Sums need `CAST(… AS SIGNED)`: MySQL's are decimals.
        int, i64
    );
    column!(
        /// The integer in a column that may be null.
        optional_int, Option<i64>
    );
    column!(
        /// The number in a column.
        real, f64
    );
    column!(
        /// The text in a column.
        text, String
    );
    column!(
        /// The text in a column that may be null.
        optional_text, Option<String>
    );
    column!(
        /// The bytes in a column.
        bytes, Vec<u8>
    );

    /// The text in a column, read as something else.
    ///
    /// # Errors
    /// As [`text`](Self::text), and text that is no such thing.
    pub fn text_as<T>(&self, column: usize, read: impl FnOnce(&str) -> Option<T>) -> Result<T> {
        let text = self.text(column)?;
        read(&text).ok_or_else(|| unreadable(column, &text))
    }

    /// As [`text_as`](Self::text_as), of a column that may be null.
    ///
    /// # Errors
    /// As [`text_as`](Self::text_as).
    pub fn optional_text_as<T>(
        &self,
        column: usize,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(text) = self.optional_text(column)? else {
            return Ok(None);
        };
        read(&text)
            .map(Some)
            .ok_or_else(|| unreadable(column, &text))
    }

    /// The integer in a column as a smaller or an unsigned one.
    ///
    /// # Errors
    /// As [`int`](Self::int), and an integer that does not fit.
    pub fn int_as<T: TryFrom<i64>>(&self, column: usize) -> Result<T> {
        let int = self.int(column)?;
        T::try_from(int).map_err(|_| unreadable(column, &int.to_string()))
    }
}

fn unreadable(column: usize, value: &str) -> Error {
    let source = sqlx::Error::Decode(format!("unexpected value. value=`{value}`").into());
    Error::Column { column, source }
}
