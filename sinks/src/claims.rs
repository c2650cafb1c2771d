//! How a writer takes partitions over, and looks whether it still has them.

use millstream_broker::TopicPartition;
use tracing::{debug, warn};

use crate::{
    Dialect, Error, Result,
    dead_letters::chain,
    fault::{Fault, classify},
    progress::{self, Claim, Fate, Identity, Step},
    writer::{ATTEMPT_MAX, Halt, Writer},
};

/// How long a claim waits for the transaction of an older writer before it ends that writer's
/// connection. Transactions of sinks are far shorter.
const CLAIM_LOCK: &str = "SET SESSION innodb_lock_wait_timeout=2";

impl Writer {
    /// Takes partitions over and answers where to read on.
    pub(crate) async fn claim(
        &mut self,
        partitions: &[TopicPartition],
        identity: &Identity,
    ) -> Result<Vec<i64>, Halt> {
        // Whatever happens, what was claimed before is no longer right.
        self.claims.clear();
        let mut pauses = self.backoff.pauses();
        loop {
            let claim = self.claim_once(partitions, identity);
            let error = match self.unless_it_ends(claim).await? {
                Ok(claims) => {
                    self.claims = claims;
                    return Ok(self.claims.iter().map(|c| c.next_offset).collect());
                }
                // A second writer's first claim at the same moment is a duplicate key.
                Err(error) if error.is_temporary() || is_duplicate(&error) => error,
                Err(error) => return Err(self.final_error(error).into()),
            };
            self.pause(&mut pauses, &error, "partitions are not claimed")
                .await?;
            if is_conflict(&error) {
                self.end_holders(partitions).await;
            }
        }
    }

    async fn claim_once(
        &self,
        partitions: &[TopicPartition],
        identity: &Identity,
    ) -> Result<Vec<Claim>> {
        let failed = || Error::database("claiming partitions");
        let mut order: Vec<usize> = (0..partitions.len()).collect();
        order.sort_by(|&a, &b| partitions[a].cmp(&partitions[b]));
        let attempt = async {
            let mut lease = self.database.lease().await.map_err(failed())?;
            let is_server = self.database.dialect() != Dialect::Sqlite;
            if is_server {
                let short = CLAIM_LOCK.to_owned();
                lease.execute(short).await.map_err(failed())?;
            }
            let mut tx = lease.begin().await.map_err(failed())?;
            let mut claims: Vec<Option<Claim>> = vec![None; partitions.len()];
            for at in order {
                let claim = progress::claim(&mut tx, &self.sink, &partitions[at], identity);
                claims[at] = Some(claim.await?);
            }
            tx.commit().await.map_err(failed())?;
            if !is_server {
                lease.give_back();
            }
            Ok(claims.into_iter().flatten().collect())
        };
        match tokio::time::timeout(ATTEMPT_MAX, attempt).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout("claiming partitions")),
        }
    }

    /// Ends the connections of older writers that hang in a transaction: their rows are rolled
    /// back, and would have been refused anyway. Needs no right beyond the user's own where old
    /// writers have the same user.
    async fn end_holders(&self, partitions: &[TopicPartition]) {
        if self.database.dialect() == Dialect::Sqlite {
            return;
        }
        let end = async {
            let failed = || Error::database("ending an older writer");
            // Not given back: its isolation level is changed.
            let mut lease = self.database.lease().await.map_err(failed())?;
            for partition in partitions {
                let holder = progress::holder(&mut lease, &self.sink, partition).await?;
                if let Some(id) = holder {
                    warn!(sink = %self.sink, %partition, connection = id,
                        "an older writer holds the lock and is disconnected");
                    let kill = lease.execute(format!("KILL {id}"));
                    kill.await.map_err(failed())?;
                }
            }
            Ok(())
        };
        let ended = tokio::time::timeout(ATTEMPT_MAX, end).await;
        let ended = ended.unwrap_or(Err(Error::Timeout("ending an older writer")));
        if let Err(error) = ended {
            // Then the server ends it, after `wait_timeout`.
            warn!(sink = %self.sink, error = chain(&error), "an older writer stays connected");
        }
    }

    /// Looks whether the claims still hold. A database that was set back to an earlier state, or a
    /// partition taken by another writer, shows before the next record comes.
    pub(crate) async fn check_claims(&self) -> Result<(), Halt> {
        self.go_on()?;
        let stands = |claim: &Claim| Step {
            partition: claim.partition.clone(),
            epoch: claim.epoch,
            from: claim.next_offset,
            to: claim.next_offset,
        };
        let steps: Vec<Step> = self.claims.iter().map(stands).collect();
        if steps.is_empty() {
            return Ok(());
        }
        match self.fate(&steps).await {
            Ok(Fate::Committed | Fate::NotCommitted) => Ok(()),
            Ok(Fate::Fenced(partition)) => Err(self.fenced(&partition)),
            // There is nothing to write: the next batch waits for the database, or the next look.
            Err(error) if error.is_temporary() => {
                debug!(sink = %self.sink, error = chain(&error), "claims are not looked at");
                Ok(())
            }
            Err(error) => Err(self.final_error(error).into()),
        }
    }
}

fn is_duplicate(error: &Error) -> bool {
    matches!(error, Error::Database { source, .. }
        if source.as_database_error().is_some_and(|e| e.is_unique_violation()))
}

fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Database { source, .. } if classify(source) == Fault::Conflict)
}
