//! Where the databases differ, in words of SQL.

/// Which SQL a database speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// SQLite.
    Sqlite,
    /// MySQL, 8.0.17 or later.
    MySql,
    /// MariaDB, 10.6 or later.
    MariaDb,
}

impl Dialect {
    /// The name for people and for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::MySql => "MySQL",
            Self::MariaDb => "MariaDB",
        }
    }

    /// How many placeholders one statement may have.
    pub(crate) fn placeholders_max(self) -> usize {
        match self {
            Self::Sqlite => 32_766,
            Self::MySql | Self::MariaDb => 65_535,
        }
    }

    /// Puts this database's words into a statement of a [`Migration`](crate::Migration):
    ///
    /// | in the text | SQLite | MySQL and MariaDB |
    /// |---|---|---|
    /// | `{int}` | `INTEGER` | `BIGINT` |
    /// | `{id}` | `TEXT` | `VARCHAR(255)`, fit for keys and indexes |
    /// | `{text}` | `TEXT` | `MEDIUMTEXT` |
    /// | `{options}` behind a table | `STRICT, WITHOUT ROWID` | InnoDB, utf8mb4, by bytes |
    ///
    /// ```
    /// use millstream_sinks::Dialect;
    /// let ddl = Dialect::Sqlite.expand("CREATE TABLE t (a {int} PRIMARY KEY){options}");
    /// assert_eq!(ddl, "CREATE TABLE t (a INTEGER PRIMARY KEY) STRICT, WITHOUT ROWID");
    /// ```
    pub fn expand(self, statement: &str) -> String {
        // Names differ when a byte differs, trailing blanks included, as they do in a topic.
        let collation = match self {
            Self::Sqlite => "",
            Self::MySql => "utf8mb4_0900_bin",
            Self::MariaDb => "utf8mb4_nopad_bin",
        };
        let (int, id, text, options) = match self {
            Self::Sqlite => (
                "INTEGER",
                "TEXT",
                "TEXT",
                " STRICT, WITHOUT ROWID".to_owned(),
            ),
            Self::MySql | Self::MariaDb => (
                "BIGINT",
                "VARCHAR(255)",
                "MEDIUMTEXT",
                format!(" ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE={collation}"),
            ),
        };
        statement
            .replace("{int}", int)
            .replace("{id}", id)
            .replace("{text}", text)
            .replace("{options}", &options)
    }
}
