//! What a database's error means for the transaction it happened in.

use sqlx::error::DatabaseError;

/// What to do about an error of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Another transaction was in the way: the same transaction again, smaller if it was a long
    /// wait.
    Conflict {
        /// True when a lock was waited for in vain.
        waited: bool,
    },
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
            Self::Conflict { .. } | Self::Unavailable => true,
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

fn of_database(error: &dyn DatabaseError) -> Fault {
    if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return of_mysql(error.number(), error.code().unwrap_or_default());
    }
    let code = error.code().and_then(|code| code.parse().ok());
    code.map_or(Fault::Defect, of_sqlite)
}

fn of_mysql(number: u16, state: &str) -> Fault {
    match number {
        // Deadlock; record changed since it was read (MariaDB).
        1213 | 1020 => Fault::Conflict { waited: false },
        // Lock wait, with and without time.
        1205 | 3572 => Fault::Conflict { waited: true },
        // Too many connections, shutting down, host blocked, network, disk full, killed.
        1040
        | 1053
        | 1129
        | 1158..=1161
        | 1203
        | 1021
        | 1114
        | 1317
        | 1927
        | 2006
        | 2013
        | 3024
        | 4031 => Fault::Unavailable,
        // The server is read-only or not ready to write: it is, or will be, another one's turn.
        1290 | 1792 | 1836 | 1047 => Fault::Unavailable,
        // Packet too large; data too long, out of range, truncated, wrong; checks.
        1153 | 1406 | 1264 | 1265 | 1292 | 1366 | 1048 | 1364 | 3819 | 4025 => Fault::Data,
        _ => match state.get(..2) {
            Some("22" | "23") => Fault::Data,
            Some("08") => Fault::Unavailable,
            Some("40") => Fault::Conflict { waited: false },
            _ => Fault::Defect,
        },
    }
}

fn of_sqlite(code: i32) -> Fault {
    // The low byte is the primary code.
    match code & 0xff {
        // BUSY, LOCKED: the lock was waited for.
        5 | 6 => Fault::Conflict { waited: true },
        // SCHEMA: changed by another process; the statement is prepared anew.
        17 => Fault::Conflict { waited: false },
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
            (1213, "40001", Fault::Conflict { waited: false }),
            (1205, "HY000", Fault::Conflict { waited: true }),
            (1020, "HY000", Fault::Conflict { waited: false }),
            (1290, "HY000", Fault::Unavailable),
            (1836, "HY000", Fault::Unavailable),
            (1927, "70100", Fault::Unavailable),
            (1406, "22001", Fault::Data),
            (1264, "22003", Fault::Data),
            (3819, "HY000", Fault::Data),
            (4025, "23000", Fault::Data),
            (1062, "23000", Fault::Data),
            (1146, "42S02", Fault::Defect),
            (1142, "42000", Fault::Defect),
        ];
        for (number, state, fault) in cases {
            assert_eq!(of_mysql(number, state), fault, "{number}");
        }
    }

    #[test]
    fn sqlite_errors_go_by_their_primary_code() {
        assert_eq!(of_sqlite(517), Fault::Conflict { waited: true });
        assert_eq!(of_sqlite(275), Fault::Data);
        assert_eq!(of_sqlite(13), Fault::Unavailable);
        assert_eq!(of_sqlite(1), Fault::Defect);
    }
}
