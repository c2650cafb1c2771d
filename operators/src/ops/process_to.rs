//! `process_to`: a processor with several outputs, each with types of its own.

use std::{any::Any, cell::RefCell, marker::PhantomData, rc::Rc, sync::Arc};

use millstream_topology::{NodeId, NodeKind, Record};

use crate::{
    Cx, KStream, Processor, Stores,
    build::TaskBuild,
    builder::{SharedDraft, add_node},
    edge::{Edge, edge},
    processor::{Instance, Shared},
    processor_stores::handles_of,
};

/// One output of a processor, beside the one that `forward` leads to.
///
/// The name is the output's in `describe()` and in metrics, unique in the topology.
#[derive(Clone, Copy, Debug)]
pub struct Output<K, V> {
    name: &'static str,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Output<K, V> {
    /// An output of that name.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            types: PhantomData,
        }
    }
}

/// A processor's key to one of its outputs: see
/// [`Context::forward_to`](crate::Context::forward_to).
pub struct OutputHandle<K, V> {
    pub(crate) index: usize,
    types: PhantomData<fn(K, V)>,
}

impl<K, V> Clone for OutputHandle<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K, V> Copy for OutputHandle<K, V> {}

/// Makes the way to one output for one task: an `Edge` of the output's types.
pub(crate) type Exit = Arc<dyn Fn(&mut TaskBuild<'_>) -> Box<dyn Any> + Send + Sync>;

/// Where the outputs of a processor are added to the topology.
pub struct Exits {
    draft: SharedDraft,
    node: NodeId,
    made: Vec<Exit>,
}

impl Exits {
    fn add<K: Clone + 'static, V: Clone + 'static>(
        &mut self,
        output: Output<K, V>,
    ) -> (KStream<K, V>, OutputHandle<K, V>) {
        let id = add_node(&self.draft, NodeKind::Branch, &[self.node]);
        let stream = KStream::new(&self.draft, id, true).named(output.name);
        let port = stream.port.clone();
        let handle = OutputHandle {
            index: self.made.len(),
            types: PhantomData,
        };
        self.made.push(Arc::new(move |build| {
            let next = port.connect(build);
            let exit: Edge<K, V> = build.node(id, move |cx: &mut Cx<'_>, r| next.push(cx, r));
            Box::new(exit)
        }));
        (stream, handle)
    }
}

/// The outputs of a processor: one [`Output`], a tuple of up to four, or a vector of outputs with
/// the same types.
///
/// ```
/// # use millstream_operators::{Context, Output, OutputHandle, Processor, StreamsBuilder};
/// # use millstream_topology::{text, Record, Result, Topic};
/// # const IN: Topic<String, String> = Topic::new("in", text(), text());
/// struct Sort(OutputHandle<String, u64>, OutputHandle<String, bool>);
/// # impl Processor for Sort {
/// #     type Key = String;
/// #     type Value = String;
/// #     type OutKey = String;
/// #     type OutValue = String;
/// #     fn process(
/// #         &mut self,
/// #         cx: &mut Context<'_, '_, String, String>,
/// #         record: Record<String, String>,
/// #     ) -> Result<()> {
/// #         cx.forward_to(self.0, record.clone().with_value(1))?;
/// #         cx.forward_to(self.1, record.with_value(true))
/// #     }
/// # }
/// let b = StreamsBuilder::new();
/// let outputs = (Output::new("numbers"), Output::new("flags"));
/// let (words, (numbers, flags)) =
///     b.stream(IN).process_to((), outputs, |(), (numbers, flags)| Sort(numbers, flags));
/// # assert!(b.build().is_ok());
/// ```
///
/// A name alone says nothing of types: write `Output::<String, u64>::new("numbers")`.
///
/// ```compile_fail,E0277
/// # use millstream_operators::{Context, Processor, StreamsBuilder};
/// # use millstream_topology::{text, Record, Result, Topic};
/// # const IN: Topic<String, String> = Topic::new("in", text(), text());
/// struct Sort;
/// # impl Processor for Sort {
/// #     type Key = String;
/// #     type Value = String;
/// #     type OutKey = String;
/// #     type OutValue = String;
/// #     fn process(
/// #         &mut self,
/// #         cx: &mut Context<'_, '_, String, String>,
/// #         record: Record<String, String>,
/// #     ) -> Result<()> {
/// #         cx.forward(record)
/// #     }
/// # }
/// let b = StreamsBuilder::new();
/// b.stream(IN).process_to((), "numbers", |(), _| Sort);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no set of outputs",
    note = "name the processor's outputs: one `Output`, a tuple of them, or a vector"
)]
pub trait Outputs {
    /// The streams that come out.
    type Streams;
    /// What the processor gets for them.
    type Handles: Clone + Send + Sync + 'static;

    #[doc(hidden)]
    fn open(self, exits: &mut Exits) -> (Self::Streams, Self::Handles);
}

impl<K: Clone + 'static, V: Clone + 'static> Outputs for Output<K, V> {
    type Streams = KStream<K, V>;
    type Handles = OutputHandle<K, V>;

    fn open(self, exits: &mut Exits) -> (Self::Streams, Self::Handles) {
        exits.add(self)
    }
}

impl<K: Clone + 'static, V: Clone + 'static> Outputs for Vec<Output<K, V>> {
    type Streams = Vec<KStream<K, V>>;
    type Handles = Vec<OutputHandle<K, V>>;

    fn open(self, exits: &mut Exits) -> (Self::Streams, Self::Handles) {
        self.into_iter().map(|output| exits.add(output)).unzip()
    }
}

macro_rules! outputs_of_a_tuple {
    ($($name:ident $at:tt),+) => {
        impl<$($name: Outputs),+> Outputs for ($($name,)+) {
            type Streams = ($($name::Streams,)+);
            type Handles = ($($name::Handles,)+);

            fn open(self, exits: &mut Exits) -> (Self::Streams, Self::Handles) {
                let opened = ($(self.$at.open(exits),)+);
                (($(opened.$at.0,)+), ($(opened.$at.1,)+))
            }
        }
    };
}
outputs_of_a_tuple!(A 0, B 1);
outputs_of_a_tuple!(A 0, B 1, C 2);
outputs_of_a_tuple!(A 0, B 1, C 2, D 3);

/// As [`process`](super::process::process), with further outputs.
pub(crate) fn process_to<K, V, S, O, P>(
    stream: KStream<K, V>,
    stores: S,
    outputs: O,
    make: impl Fn(S::Handles, O::Handles) -> P + Send + Sync + 'static,
) -> (KStream<P::OutKey, P::OutValue>, O::Streams)
where
    K: Clone + 'static,
    V: Clone + 'static,
    S: Stores,
    O: Outputs,
    P: Processor<Key = K, Value = V>,
{
    let draft = stream.draft.clone();
    let id = add_node(&draft, NodeKind::Process, &[stream.id]);
    stores.connect(&mut draft.lock(), id);
    let out: KStream<P::OutKey, P::OutValue> = KStream::new(&draft, id, true);
    let mut exits = Exits {
        draft: draft.clone(),
        node: id,
        made: Vec::new(),
    };
    let (streams, handles) = outputs.open(&mut exits);
    let (port, exits) = (out.port.clone(), exits.made);
    stream.port.subscribe(Arc::new(move |build| {
        let next = port.connect(build);
        let exits = exits.iter().map(|exit| exit(build)).collect();
        let ids = build.stores_of(id);
        let processor = make(handles_of(stores, build, &ids), handles.clone());
        let instance: Shared<Instance<P>> =
            Rc::new(RefCell::new(Instance::new(processor, next, exits)));
        let name = build.name(id);
        build.processors.push((name, instance.clone()));
        let body = edge(move |cx: &mut Cx<'_>, record: Record<K, V>| {
            instance.borrow_mut().process(cx, record)
        });
        build.node(id, body)
    }));
    (out, streams)
}
