//! Processors that cannot change keys.

use millstream_operators::{FixedKeyContext, FixedKeyProcessor, FixedKeyRecord};
use millstream_topology::Result;

use super::{Own, count, counted, stored_key};
use crate::{
    functions::{cut, shown},
    text::{Key, Text},
};

type At<'a, 'b> = FixedKeyContext<'a, 'b, Option<Key>, Option<Text>>;
type In = FixedKeyRecord<Option<Key>, Option<Text>>;

/// Those that keep nothing.
pub(super) enum StatelessValues {
    /// Tells the record's time in the value.
    AppendTime,
    /// Forwards each record twice.
    Twice,
    /// Forwards records that have a value.
    NoneIfNull,
}

impl FixedKeyProcessor for StatelessValues {
    type Key = Option<Key>;
    type Value = Option<Text>;
    type OutValue = Option<Text>;

    fn process(&mut self, cx: &mut At<'_, '_>, record: In) -> Result<()> {
        match self {
            Self::AppendTime => {
                let told = format!("{}@{}", shown(record.value.as_deref()), record.timestamp);
                cx.forward(record.with_value(Some(cut(told))))
            }
            Self::Twice => {
                cx.forward(record.clone())?;
                cx.forward(record)
            }
            Self::NoneIfNull if record.value.is_none() => Ok(()),
            Self::NoneIfNull => cx.forward(record),
        }
    }
}

/// Tells how many records the key has had.
pub(super) struct StoredValues(pub(super) Own);

impl FixedKeyProcessor for StoredValues {
    type Key = Option<Key>;
    type Value = Option<Text>;
    type OutValue = Option<Text>;

    fn process(&mut self, cx: &mut At<'_, '_>, record: In) -> Result<()> {
        let key = stored_key(record.key());
        let count = count(cx.store(self.0), &key, record.timestamp)?;
        let value = counted(&record.value, &count);
        cx.forward(record.with_value(value))
    }
}
