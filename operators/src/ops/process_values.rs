//! `process_values`: a processor that cannot change keys.

use millstream_topology::{Record, Result};

use crate::{
    Context, FixedKeyContext, FixedKeyProcessor, FixedKeyRecord, KStream, Processor, Punctuation,
    Stores, ops,
};

/// As [`process`](ops::process::process); what comes out keeps the mark of its input, because its
/// keys are those of the input.
pub(crate) fn process_values<K, V, S, P>(
    stream: KStream<K, V>,
    stores: S,
    make: impl Fn(S::Handles) -> P + Send + Sync + 'static,
) -> KStream<K, P::OutValue>
where
    K: Clone + 'static,
    V: Clone + 'static,
    S: Stores,
    P: FixedKeyProcessor<Key = K, Value = V>,
{
    let rekeyed = stream.rekeyed;
    let out = ops::process::process(stream, stores, move |handles| Fixed(make(handles)));
    KStream { rekeyed, ..out }
}

/// A processor of values as one of records.
struct Fixed<P>(P);

impl<P: FixedKeyProcessor> Processor for Fixed<P> {
    type Key = P::Key;
    type Value = P::Value;
    type OutKey = P::Key;
    type OutValue = P::OutValue;

    fn init(&mut self, cx: &mut Context<'_, '_, P::Key, P::OutValue>) -> Result<()> {
        self.0.init(&mut cx.with_fixed_key())
    }

    fn process(
        &mut self,
        cx: &mut Context<'_, '_, P::Key, P::OutValue>,
        record: Record<P::Key, P::Value>,
    ) -> Result<()> {
        let mut cx: FixedKeyContext<'_, '_, P::Key, P::OutValue> = cx.with_fixed_key();
        self.0.process(&mut cx, FixedKeyRecord::of(record))
    }

    fn punctuate(
        &mut self,
        cx: &mut Context<'_, '_, P::Key, P::OutValue>,
        tick: Punctuation,
    ) -> Result<()> {
        self.0.punctuate(&mut cx.with_fixed_key(), tick)
    }
}
