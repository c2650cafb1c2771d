//! What a database's error means for the transaction it happened in.
//!
//! `docs/reliability-sinks.md` has the table for people.

use sqlx::{error::DatabaseError, mysql::MySqlDatabaseError};

/// What to do about an error of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Another transaction was in the way, or this one took too long: the same again, smaller.
    Conflict,
    /// The connection or the server is away, and a COMMIT under way may have happened or not.
    Unavailable,
    /// A row is refused: find it and set it aside.
    Data,
    /// Schema, rights or SQL are wrong: trying again does not help.
    Defect,
}

impl Fault {
    pub(crate) fn is_temporary(self) -> bool {
        match self {
            Self::Conflict | Self::Unavailable => true,
            Self::Data | Self::Defect => false,
        }
    }
}

pub(crate) fn classify(error: &sqlx::Error) -> Fault {
    use sqlx::Error as E;
    match error {
        E::Database(error) => of_database(&**error),
        E::Io(_) | E::Protocol(_) | E::PoolTimedOut | E::WorkerCrashed | E::BeginFailed => {
            Fault::Unavailable
        }
        E::Encode(_) => Fault::Data,
        // Also what later versions add: better to stop with the message than to try for ever.
        _ => Fault::Defect,
    }
}

/// What a person must do about a [`Fault::Defect`].
pub(crate) fn advice(error: &sqlx::Error) -> &'static str {
    const TABLES: &str = "migrate the tables of its projections";
    const RIGHTS: &str = "let its user select, insert, update and delete in its tables";
    const OTHER: &str = "mend what the cause names";
    let sqlx::Error::Database(error) = error else {
        return OTHER;
    };
    if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
        return match error.number() {
            // Unknown column, no such table, column count, column without a default.
            1054 | 1146 | 1136 | 1364 => TABLES,
            // Access denied, to the database, a table, a column, a routine; right missing.
            1044 | 1045 | 1142 | 1143 | 1227 | 1370 => RIGHTS,
            1049 => "create its database",
            _ => OTHER,
        };
    }
    match error.code().as_deref() {
        // The general error is about names that do not exist.
        Some("1") => TABLES,
        Some("23") => RIGHTS,
        Some("11" | "26") => "restore its file from a backup; the log fills up what it lacks",
        _ => OTHER,
    }
}

fn of_database(error: &dyn DatabaseError) -> Fault {
    if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
        return of_mysql(error.number(), error.code().unwrap_or_default());
    }
    let code = error.code().and_then(|code| code.parse().ok());
    code.map_or(Fault::Defect, of_sqlite)
}

fn of_mysql(number: u16, state: &str) -> Fault {
    match number {
        // Deadlock; record changed since it was read (MariaDB); table changed; statement to be
        // prepared again; refused by the group (replication).
        1213 | 1020 | 1412 | 1615 | 3100 | 3101 => Fault::Conflict,
        // Lock wait, with and without time; too many locks; statement took too long (MariaDB,
        // MySQL).
        1205 | 3572 | 1206 | 1969 | 3024 => Fault::Conflict,
        // Too many connections or statements; shutting down; host blocked; network; killed; a
        // statement that a proxy's other server does not know.
        1040
        | 1053
        | 1129
        | 1158..=1161
        | 1203
        | 1226
        | 1243
        | 1317
        | 1461
        | 1637
        | 1927
        | 2006
        | 2013
        | 4031 => Fault::Unavailable,
        // Disk full, storage engine, memory; an error during COMMIT.
        1021 | 1026 | 1030 | 1037 | 1038 | 1041 | 1114 | 1180 => Fault::Unavailable,
        // The server is read-only, locked or not ready: it is, or will be, another one's turn.
        1047 | 1223 | 1290 | 1792 | 1836 | 3032 => Fault::Unavailable,
        // The table wants a column that no row has: not this row's fault.
        1364 => Fault::Defect,
        // Packet or row too large; data too long, out of range, truncated, wrong; no partition;
        // checks.
        1118 | 1153 | 1406 | 1264 | 1265 | 1292 | 1300 | 1366 | 1048 | 1526 | 3819 | 4025 => {
            Fault::Data
        }
        _ => match state.get(..2) {
            // Data, constraints, and what a trigger signals.
            Some("22" | "23" | "45") => Fault::Data,
            Some("08") => Fault::Unavailable,
            Some("40") => Fault::Conflict,
            _ => Fault::Defect,
        },
    }
}

fn of_sqlite(code: i32) -> Fault {
    // The low byte is the primary code.
    match code & 0xff {
        // BUSY, LOCKED: the lock was waited for. SCHEMA: the statement is prepared anew.
        5 | 6 | 17 => Fault::Conflict,
        // NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL.
        7 | 8 | 9 | 10 | 13 | 14 | 15 => Fault::Unavailable,
        // TOOBIG, CONSTRAINT, MISMATCH.
        18..=20 => Fault::Data,
        _ => Fault::Defect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mysql_errors_mean_what_the_manual_says() {
        let cases = [
            (Fault::Conflict, "HY000", &[1205, 1020, 3572, 1969][..]),
            (Fault::Conflict, "40001", &[1213]),
            (Fault::Conflict, "40000", &[3101]),
            (Fault::Unavailable, "HY000", &[2006, 2013, 1290, 1836, 1021]),
            (Fault::Unavailable, "08S01", &[1053, 1152, 1160, 4031]),
            (Fault::Unavailable, "70100", &[1927, 1317]),
            (Fault::Unavailable, "25006", &[1792]),
            (Fault::Unavailable, "08004", &[1040]),
            (Fault::Data, "22001", &[1406]),
            (Fault::Data, "22003", &[1264, 1690]),
            (Fault::Data, "22007", &[1292]),
            (Fault::Data, "23000", &[1048, 1062, 1452, 4025]),
            (Fault::Data, "HY000", &[1366, 3819]),
            (Fault::Data, "08S01", &[1153]),
            (Fault::Data, "45000", &[1644]),
            (Fault::Defect, "42S02", &[1146]),
            (Fault::Defect, "42S22", &[1054]),
            (Fault::Defect, "42000", &[1142, 1064]),
            (Fault::Defect, "28000", &[1045]),
            (Fault::Defect, "HY000", &[1364, 1105]),
        ];
        for (fault, state, numbers) in cases {
            for number in numbers {
                assert_eq!(of_mysql(*number, state), fault, "{number} {state}");
            }
        }
    }

    #[test]
    fn sqlite_errors_go_by_their_primary_code() {
        let cases = [
            // BUSY and its SNAPSHOT, LOCKED, SCHEMA.
            (Fault::Conflict, &[5, 517, 6, 17][..]),
            // READONLY, IOERR and its FSYNC, FULL, CANTOPEN.
            (Fault::Unavailable, &[8, 10, 1034, 13, 14]),
            // CHECK, NOTNULL, UNIQUE, PRIMARYKEY, DATATYPE, TOOBIG.
            (Fault::Data, &[275, 1299, 2067, 1555, 3091, 18]),
            // ERROR, CORRUPT, AUTH, NOTADB.
            (Fault::Defect, &[1, 11, 23, 26]),
        ];
        for (fault, codes) in cases {
            for code in codes {
                assert_eq!(of_sqlite(*code), fault, "{code}");
            }
        }
    }
}
