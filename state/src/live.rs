//! `AnyStore`: the live layer of a store, without its types, as a commit drives it.

use std::any::Any;

use millstream_topology::Serde;

use crate::{
    committed::{Change, Committed},
    error::{Fault, Result, unwritable},
    layout::{push_timestamp, split_timestamp},
};

/// Takes changelog records: key, value, timestamp.
pub(crate) type Log<'a> = dyn FnMut(&[u8], Option<&[u8]>, i64) -> Result<()> + 'a;

/// The live layer of one store. Made by [`StoreDefinition::open`](crate::StoreDefinition::open) and
/// driven by [`TaskState`](crate::TaskState) only.
///
/// A change is *dirty* until it is written to the changelog, then *in flight* until the commit or
/// the abort.
#[expect(private_interfaces, reason = "nobody outside calls these")]
pub trait AnyStore {
    #[doc(hidden)]
    fn as_any_mut(&mut self) -> &mut dyn Any;
    /// Tells the store where its entries lie, and whether it is known to have none.
    #[doc(hidden)]
    fn attach(&mut self, id: u16, empty: bool, observed: i64);
    /// Hands dirty entries to `log` and `changes`; they are in flight then.
    #[doc(hidden)]
    fn write_dirty(&mut self, log: &mut Log<'_>, changes: &mut Vec<Change>) -> Result<()>;
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
    /// Drops clean entries, those not used lately first, until about `target_bytes` are left. Does
    /// nothing while anything is dirty or in flight.
    #[doc(hidden)]
    fn shed(&mut self, target_bytes: usize);
}

/// The stored form of a value and its timestamp, in `out`; `None` for no value and for null.
pub(crate) fn write_stored<'b, V>(
    store: &str,
    serde: &Serde<V>,
    value: Option<&(V, i64)>,
    out: &'b mut Vec<u8>,
) -> Result<(Option<&'b [u8]>, Option<i64>)> {
    let Some((value, timestamp)) = value else {
        return Ok((None, None));
    };
    out.clear();
    push_timestamp(out, *timestamp);
    let present = serde
        .encode(value, out)
        .map_err(|error| unwritable(store, "value", error))?;
    Ok((present.then_some(out.as_slice()), Some(*timestamp)))
}

/// The value that [`write_stored`] wrote, and its timestamp.
pub(crate) fn read_stored<V>(store: &str, serde: &Serde<V>, stored: &[u8]) -> Result<(V, i64)> {
    let (timestamp, value) = split_timestamp(stored)
        .ok_or_else(|| Fault::undecodable(store, "value is shorter than its timestamp"))?;
    match serde.decode(Some(value)) {
        Ok(value) => Ok((value, timestamp)),
        Err(source) => Err(Fault::undecodable(store, source)),
    }
}
