//! `AnyStore`: the live layer of a store, without its types, as a commit drives it.

use std::any::Any;

use millstream_topology::{Error, Result};

use crate::committed::{Change, Committed};

/// Takes changelog records: key, value, timestamp.
pub(crate) type Log<'a> = dyn FnMut(&[u8], Option<&[u8]>, i64) -> Result<(), Error> + 'a;

/// The live layer of one store. Made by [`StoreDefinition::open`](crate::StoreDefinition::open) and driven by
/// [`TaskState`](crate::TaskState) only.
///
/// A change is *dirty* until it is written to the changelog, then *in flight* until the commit or the abort.
#[expect(private_interfaces, reason = "nobody outside calls these")]
pub trait AnyStore {
    #[doc(hidden)]
    fn as_any_mut(&mut self) -> &mut dyn Any;
    /// Tells the store where its entries lie, and whether it is known to have none.
    #[doc(hidden)]
    fn attach(&mut self, id: u16, empty: bool, observed: i64);
    /// Hands dirty entries to `log` and `changes`; they are in flight then.
    #[doc(hidden)]
    fn write_dirty(&mut self, log: &mut Log<'_>, changes: &mut Vec<Change>) -> Result<(), Error>;
    /// What was in flight is in the committed layer now. `observed` is the committed observed time.
    #[doc(hidden)]
    fn settle(&mut self, observed: i64);
    /// Forgets what is dirty or in flight.
    #[doc(hidden)]
    fn abort(&mut self, committed: &Committed, observed: i64);
    /// Forgets everything; the committed layer was changed behind the store's back.
    #[doc(hidden)]
    fn forget(&mut self, observed: i64);
    #[doc(hidden)]
    fn is_dirty(&self) -> bool;
    /// Greatest start put; -1 for stores without windows.
    #[doc(hidden)]
    fn observed(&self) -> i64;
    /// Approximate memory of the live layer.
    #[doc(hidden)]
    fn bytes(&self) -> usize;
    /// Drops clean entries, those not used lately first, until about `target_bytes` are left. Does nothing
    /// while anything is dirty or in flight.
    #[doc(hidden)]
    fn shed(&mut self, target_bytes: usize);
}
