//! The gateway's books in the shop's database.

use millstream_topology::BoxError;

use super::{rules::LedgerEntry, simulated::Books};
use crate::{model::OrderId, sql::Tables};

impl Books for Tables {
    async fn entries_of(&self, orders: &[OrderId]) -> Result<Vec<LedgerEntry>, BoxError> {
        Ok(self.books_of(orders).await?)
    }

    async fn enter(&self, entries: &[LedgerEntry]) -> Result<(), BoxError> {
        Ok(Tables::enter(self, entries).await?)
    }
}
