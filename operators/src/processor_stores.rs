//! The stores of a processor: its own, to read and write, and those of others, to read.

use std::{sync::Arc, time::Duration};

use millstream_state::{
    Kv, KvDefinition, Session, SessionDefinition, StoreDefinition, StoreView, Versioned,
    VersionedDefinition, Window, WindowDefinition,
};
use millstream_topology::{
    KvStore, NodeId, Result, SessionStore, StoreId, VersionedStore, WindowStore, Windowed,
};

use crate::{Context, build::TaskBuild, builder::Draft, ops::source::bad};

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident, $store:ident, $place:ty) => {
        $(#[$doc])*
        pub struct $name<K: 'static, V: 'static> {
            place: $place,
            store: $store<K, V>,
        }
        impl<K, V> Clone for $name<K, V> {
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<K, V> Copy for $name<K, V> {}
    };
}
handle!(
    /// A processor's key to one of its key-value stores.
    KvHandle,
    KvStore,
    usize
);
handle!(
    /// A processor's key to one of its window stores.
    WindowHandle,
    WindowStore,
    usize
);
handle!(
    /// A processor's key to one of its session stores.
    SessionHandle,
    SessionStore,
    usize
);
handle!(
    /// A processor's key to one of its versioned stores.
    VersionedHandle,
    VersionedStore,
    usize
);
handle!(
    /// A processor's key to a key-value store of another node, or to that of a global table.
    ReadHandle,
    KvStore,
    Place
);
handle!(
    /// A processor's key to a window store of another node.
    ReadWindowHandle,
    WindowStore,
    usize
);
handle!(
    /// A processor's key to a session store of another node.
    ReadSessionHandle,
    SessionStore,
    usize
);
handle!(
    /// A processor's key to a versioned store of another node.
    ReadVersionedHandle,
    VersionedStore,
    usize
);

/// Where a store is: its index among those of the task, or among the global tables.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Task(usize),
    Global(usize),
}

impl Place {
    fn in_task(self) -> usize {
        match self {
            Self::Task(index) => index,
            Self::Global(_) => unreachable!("a task does not own a global table"),
        }
    }
}

impl<K, V, R> Context<'_, '_, K, V, R> {
    /// A key-value store of this node, to read and to write. Keys and values are not null: a
    /// deletion is `delete`. An entry has the timestamp that it is put with, and no headers.
    ///
    /// ```
    /// # use millstream_operators::{Context, KvHandle};
    /// # use millstream_topology::{Record, Result};
    /// // In `process`, with a handle that the processor got when it was made:
    /// fn count(
    ///     cx: &mut Context<'_, '_, String, u64>,
    ///     counts: KvHandle<String, u64>,
    ///     record: Record<String, String>,
    /// ) -> Result<()> {
    ///     let count = cx.store(counts).get(&record.key)?.unwrap_or(0) + 1;
    ///     cx.store(counts).put(&record.key, count, record.timestamp)?;
    ///     cx.forward(record.with_value(count))
    /// }
    /// ```
    pub fn store<A, B: Clone + 'static>(&mut self, handle: KvHandle<A, B>) -> Kv<'_, A, B> {
        self.cx.state.kv(handle.place, &handle.store)
    }

    /// A window store of this node: values by key and window start. Keys are not null; `put` of
    /// `None` deletes. An entry has the timestamp that it is put with, and no headers.
    ///
    /// ```
    /// # use millstream_operators::{Context, WindowHandle};
    /// # use millstream_topology::{Record, Result};
    /// // In `process`: passes the first record of each key and minute on.
    /// fn once_a_minute(
    ///     cx: &mut Context<'_, '_, String, String>,
    ///     seen: WindowHandle<String, u64>,
    ///     record: Record<String, String>,
    /// ) -> Result<()> {
    ///     let minute = record.timestamp - record.timestamp.rem_euclid(60_000);
    ///     if cx.window(seen).get(&record.key, minute)?.is_some() {
    ///         return Ok(());
    ///     }
    ///     cx.window(seen).put(&record.key, minute, Some(1), record.timestamp)?;
    ///     cx.forward(record)
    /// }
    /// ```
    pub fn window<A, B: Clone + 'static>(
        &mut self,
        handle: WindowHandle<A, B>,
    ) -> Window<'_, A, B> {
        self.cx.state.window(handle.place, &handle.store)
    }

    /// A session store of this node.
    pub fn session<A, B: Clone + 'static>(
        &mut self,
        handle: SessionHandle<A, B>,
    ) -> Session<'_, A, B> {
        self.cx.state.session(handle.place, &handle.store)
    }

    /// A versioned store of this node.
    pub fn versioned<A, B: Clone + 'static>(
        &mut self,
        handle: VersionedHandle<A, B>,
    ) -> Versioned<'_, A, B> {
        self.cx.state.versioned(handle.place, &handle.store)
    }

    /// A key-value store of another node, or that of a global table, to read. What a global table
    /// shows moves by itself, in no order with the records of the task.
    pub fn read<A, B: Clone + 'static>(&mut self, handle: ReadHandle<A, B>) -> KvRead<'_, A, B> {
        KvRead(match handle.place {
            Place::Task(index) => Read::Task(self.cx.state.kv(index, &handle.store)),
            Place::Global(index) => Read::Global(self.cx.globals.view(index), handle.store),
        })
    }

    /// A window store of another node, to read.
    pub fn read_window<A, B: Clone + 'static>(
        &mut self,
        handle: ReadWindowHandle<A, B>,
    ) -> WindowRead<'_, A, B> {
        WindowRead(self.cx.state.window(handle.place, &handle.store))
    }

    /// A session store of another node, to read.
    pub fn read_session<A, B: Clone + 'static>(
        &mut self,
        handle: ReadSessionHandle<A, B>,
    ) -> SessionRead<'_, A, B> {
        SessionRead(self.cx.state.session(handle.place, &handle.store))
    }

    /// A versioned store of another node, to read.
    pub fn read_versioned<A, B: Clone + 'static>(
        &mut self,
        handle: ReadVersionedHandle<A, B>,
    ) -> VersionedRead<'_, A, B> {
        VersionedRead(self.cx.state.versioned(handle.place, &handle.store))
    }
}

/// A key-value store of another node, or that of a global table, to read.
///
/// It cannot be written: only the operator that keeps a store writes it, else the table and its
/// changes would part. To write, keep a `KvStore` of the processor's own, and reach it by
/// [`Context::store`].
///
/// ```
/// # use millstream_operators::{Context, ReadHandle};
/// # use millstream_topology::Result;
/// fn look(cx: &mut Context<'_, '_, String, u64>, names: ReadHandle<u64, String>) -> Result<()> {
///     cx.read(names).get(&7)?;
///     Ok(())
/// }
/// ```
///
/// ```compile_fail,E0599
/// # use millstream_operators::{Context, ReadHandle};
/// # use millstream_topology::Result;
/// fn write(cx: &mut Context<'_, '_, String, u64>, names: ReadHandle<u64, String>) -> Result<()> {
///     cx.read(names).put(&7, "Ada".to_owned(), 0)?;
///     Ok(())
/// }
/// ```
pub struct KvRead<'a, K: 'static, V: 'static>(Read<'a, K, V>);

enum Read<'a, K: 'static, V: 'static> {
    Task(Kv<'a, K, V>),
    Global(&'a StoreView, KvStore<K, V>),
}

impl<K: 'static, V: Clone + 'static> KvRead<'_, K, V> {
    /// The value of a key.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn get(&mut self, key: &K) -> Result<Option<V>> {
        Ok(self.get_with_timestamp(key)?.map(|(value, _)| value))
    }

    /// The value of a key, and its timestamp.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_with_timestamp(&mut self, key: &K) -> Result<Option<(V, i64)>> {
        match &mut self.0 {
            Read::Task(store) => store.get_with_timestamp(key),
            Read::Global(view, store) => {
                let mut bytes = Vec::new();
                store.key().encode(key, &mut bytes).map_err(bad("key"))?;
                let Some((value, at)) = view.get(&bytes)? else {
                    return Ok(None);
                };
                let value = store.value().decode(Some(&value)).map_err(bad("value"))?;
                Ok(Some((value, at)))
            }
        }
    }

    /// The first `limit` entries with `from <= key < to`, in the order of the encoded keys; without
    /// bounds, from the first, to the last.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn range(
        &mut self,
        from: Option<&K>,
        to: Option<&K>,
        limit: usize,
    ) -> Result<Vec<(K, V, i64)>> {
        match &mut self.0 {
            Read::Task(store) => store.range(from, to, limit),
            Read::Global(view, store) => {
                let encoded = |key: Option<&K>| -> Result<Option<Vec<u8>>> {
                    let Some(key) = key else { return Ok(None) };
                    let mut bytes = Vec::new();
                    store.key().encode(key, &mut bytes).map_err(bad("key"))?;
                    Ok(Some(bytes))
                };
                let (from, to) = (encoded(from)?, encoded(to)?);
                let found = view.range(from.as_deref(), to.as_deref(), limit)?;
                let decoded = found.into_iter().map(|(key, value, at)| {
                    let key = store.key().decode(Some(&key)).map_err(bad("key"))?;
                    let value = store.value().decode(Some(&value)).map_err(bad("value"))?;
                    Ok((key, value, at))
                });
                decoded.collect()
            }
        }
    }
}

/// A window store of another node, to read.
pub struct WindowRead<'a, K: 'static, V: 'static>(Window<'a, K, V>);

impl<K: 'static, V: Clone + 'static> WindowRead<'_, K, V> {
    /// The value of a key in the window that starts at `start`, and its timestamp.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn get(&mut self, key: &K, start: i64) -> Result<Option<(V, i64)>> {
        self.0.get(key, start)
    }

    /// The windows of a key with `from <= start <= to`, by start: start, value, timestamp.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn fetch(&mut self, key: &K, from: i64, to: i64) -> Result<Vec<(i64, V, i64)>> {
        let mut found = Vec::new();
        self.0.fetch(key, from, to, &mut |start, value, at| {
            found.push((start, value.clone(), at));
            Ok(())
        })?;
        Ok(found)
    }
}

/// A session store of another node, to read.
pub struct SessionRead<'a, K: 'static, V: 'static>(Session<'a, K, V>);

impl<K: 'static, V: Clone + 'static> SessionRead<'_, K, V> {
    /// The value of the session of a key with that first and last timestamp.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn get(&mut self, key: &K, start: i64, end: i64) -> Result<Option<V>> {
        self.0.get(key, start, end)
    }

    /// All sessions that are not expired.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn all(&mut self) -> Result<Vec<(Windowed<K>, V)>> {
        let session = |(key, start, end, value)| (Windowed { key, start, end }, value);
        Ok(self.0.all()?.into_iter().map(session).collect())
    }
}

/// A versioned store of another node, to read.
pub struct VersionedRead<'a, K: 'static, V: 'static>(Versioned<'a, K, V>);

impl<K: 'static, V: Clone + 'static> VersionedRead<'_, K, V> {
    /// What a key holds now, and since when.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn get(&mut self, key: &K) -> Result<Option<(V, i64)>> {
        self.0.get(key)
    }

    /// What a key held at a time, and since when.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_as_of(&mut self, key: &K, time: i64) -> Result<Option<(V, i64)>> {
        self.0.get_as_of(key, time)
    }
}

/// Gives a processor a store of a table, an aggregation or a global table to read: it is no store
/// of the processor's own, so it cannot write there, and a store that nobody keeps is refused.
///
/// ```
/// use millstream_operators::{Context, Processor, ReadHandle, Reads, StreamsBuilder};
/// use millstream_topology::{text, KvStore, Record, Result, Topic};
///
/// const NAMES: Topic<String, String> = Topic::new("names", text(), text());
/// const NAME_OF: KvStore<String, String> = KvStore::new("name-of", text(), text());
/// const GREETINGS: Topic<String, String> = Topic::new("greetings", text(), text());
///
/// struct Address(ReadHandle<String, String>);
///
/// impl Processor for Address {
///     type Key = String;
///     type Value = String;
///     type OutKey = String;
///     type OutValue = String;
///
///     fn process(
///         &mut self,
///         cx: &mut Context<'_, '_, String, String>,
///         record: Record<String, String>,
///     ) -> Result<()> {
///         let name = cx.read(self.0).get(&record.key)?.unwrap_or_default();
///         let greeting = format!("{} {name}", record.value);
///         cx.forward(record.with_value(greeting))
///     }
/// }
///
/// let b = StreamsBuilder::new();
/// b.table(NAMES, NAME_OF);
/// b.stream(GREETINGS).process(Reads(NAME_OF), Address);
/// b.build()?;
/// # Ok::<(), millstream_topology::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Reads<S>(
    /// The descriptor of the store.
    pub S,
);

/// The stores of a processor: one descriptor, or a tuple of up to six, or `()` for none.
///
/// A window store or a session store comes with its retention: `(STORE, Duration)`. A store that
/// another node owns is named as [`Reads`]`(STORE)`, a bounded one as [`Lru`](crate::Lru).
///
/// ```
/// # use millstream_operators::{Context, KvHandle, Processor, StreamsBuilder, WindowHandle};
/// # use millstream_topology::{days, text, u64_be, KvStore, Record, Result, Topic, WindowStore};
/// # const IN: Topic<String, String> = Topic::new("in", text(), text());
/// const EVER: KvStore<String, u64> = KvStore::new("ever", text(), u64_be());
/// const DAILY: WindowStore<String, u64> = WindowStore::new("daily", text(), u64_be());
///
/// struct Count {
///     ever: KvHandle<String, u64>,
///     daily: WindowHandle<String, u64>,
/// }
/// # impl Processor for Count {
/// #     type Key = String;
/// #     type Value = String;
/// #     type OutKey = String;
/// #     type OutValue = String;
/// #     fn process(
/// #         &mut self,
/// #         cx: &mut Context<'_, '_, String, String>,
/// #         record: Record<String, String>,
/// #     ) -> Result<()> {
/// #         cx.store(self.ever).put(&record.key, 1, record.timestamp)?;
/// #         cx.window(self.daily).put(&record.key, 0, Some(1), record.timestamp)
/// #     }
/// # }
///
/// let b = StreamsBuilder::new();
/// let make = |(ever, daily)| Count { ever, daily };
/// b.stream(IN).process((EVER, (DAILY, days(30))), make);
/// # assert!(b.build().is_ok());
/// ```
///
/// Processors that name one store share it, and so run in one task; they give it the same types and
/// the same retention, else the topology is refused.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no set of stores",
    note = "name the processor's stores: one `KvStore` or `VersionedStore` constant, a \
            `WindowStore` or `SessionStore` with its retention, `Reads` of a store of another \
            node, a tuple of them, or `()`"
)]
pub trait Stores: Copy + Send + Sync + 'static {
    /// What the processor gets for them.
    type Handles;

    #[doc(hidden)]
    fn connect(self, draft: &mut Draft, node: NodeId);
    #[doc(hidden)]
    fn handles(self, find: &dyn Fn(&str) -> Place) -> Self::Handles;
}

impl Stores for () {
    type Handles = ();
    fn connect(self, _draft: &mut Draft, _node: NodeId) {}
    fn handles(self, _find: &dyn Fn(&str) -> Place) {}
}

/// How long something is kept, in milliseconds.
fn in_ms(retention: Duration) -> i64 {
    i64::try_from(retention.as_millis()).unwrap_or(i64::MAX)
}

macro_rules! stores {
    // A store of the processor's own, or one to read.
    ($form:ty, $handle:ident, $connect:ident, $this:ident, $store:expr, $definition:expr) => {
        impl<K: 'static, V: Clone + 'static> Stores for $form {
            type Handles = $handle<K, V>;
            fn connect(self, draft: &mut Draft, node: NodeId) {
                let $this = self;
                let definition: Arc<dyn StoreDefinition> = Arc::new($definition);
                draft.$connect(node, definition);
            }
            fn handles(self, find: &dyn Fn(&str) -> Place) -> Self::Handles {
                let $this = self;
                let store = $store;
                let place = find(store.name()).into();
                $handle { place, store }
            }
        }
    };
}

impl From<Place> for usize {
    fn from(place: Place) -> Self {
        place.in_task()
    }
}

stores!(KvStore<K, V>, KvHandle, share_store, this, this, KvDefinition(this));
stores!(
    VersionedStore<K, V>,
    VersionedHandle,
    share_store,
    this,
    this,
    VersionedDefinition(this)
);
stores!(
    (WindowStore<K, V>, Duration),
    WindowHandle,
    share_store,
    this,
    this.0,
    WindowDefinition {
        store: this.0,
        retention_ms: in_ms(this.1),
        duplicates: false,
    }
);
stores!(
    (SessionStore<K, V>, Duration),
    SessionHandle,
    share_store,
    this,
    this.0,
    SessionDefinition {
        store: this.0,
        retention_ms: in_ms(this.1),
    }
);
stores!(
    Reads<KvStore<K, V>>,
    ReadHandle,
    want_store,
    this,
    this.0,
    KvDefinition(this.0)
);
stores!(
    Reads<VersionedStore<K, V>>,
    ReadVersionedHandle,
    want_store,
    this,
    this.0,
    VersionedDefinition(this.0)
);
stores!(
    Reads<WindowStore<K, V>>,
    ReadWindowHandle,
    want_store,
    this,
    this.0,
    // Only name and types count: the retention is that of the owner.
    WindowDefinition {
        store: this.0,
        retention_ms: 0,
        duplicates: false,
    }
);
stores!(
    Reads<SessionStore<K, V>>,
    ReadSessionHandle,
    want_store,
    this,
    this.0,
    // As above.
    SessionDefinition {
        store: this.0,
        retention_ms: 0,
    }
);

macro_rules! stores_of_a_tuple {
    ($($name:ident $at:tt),+) => {
        impl<$($name: Stores),+> Stores for ($($name,)+) {
            type Handles = ($($name::Handles,)+);
            fn connect(self, draft: &mut Draft, node: NodeId) {
                $(self.$at.connect(draft, node);)+
            }
            fn handles(self, find: &dyn Fn(&str) -> Place) -> Self::Handles {
                ($(self.$at.handles(find),)+)
            }
        }
    };
}
stores_of_a_tuple!(A 0, B 1);
stores_of_a_tuple!(A 0, B 1, C 2);
stores_of_a_tuple!(A 0, B 1, C 2, D 3);
stores_of_a_tuple!(A 0, B 1, C 2, D 3, E 4);
stores_of_a_tuple!(A 0, B 1, C 2, D 3, E 4, F 5);

/// Where each store is that a processor named.
pub(crate) fn handles_of<S: Stores>(
    stores: S,
    build: &TaskBuild<'_>,
    ids: &[StoreId],
) -> S::Handles {
    let find = |name: &str| {
        let named = |id: &&StoreId| build.store_name(**id) == name;
        match ids.iter().find(named) {
            Some(id) => Place::Task(build.store(*id)),
            None => Place::Global(
                build
                    .global(name)
                    .expect("the processor is connected to its stores"),
            ),
        }
    };
    stores.handles(&find)
}
