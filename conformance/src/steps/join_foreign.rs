//! `fk_join`: two tables joined by a foreign key.

use millstream_operators::{ForeignKey, KTable, NoStore, TableStore};
use millstream_topology::{Codec, KvStore, Topic, bytes, text};
use serde::Deserialize;

use super::{Group, join_tables::JoinType};
use crate::{
    functions::{self, Joiner, KeyMapper},
    interpreter::{Applied, Fields, Interpreter, Stop, StoreField, Table, TableKey},
    text::{Key, KeyCodec, Text, WindowedKeyCodec, intern},
};

/// The steps of this group.
pub const STEPS: Group = &[("fk_join", fk_join)];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForeignStep {
    id: String,
    left: String,
    right: String,
    #[serde(rename = "type")]
    kind: JoinType,
    extractor: String,
    joiner: String,
    store: Option<StoreField>,
}

fn fk_join(at: &mut Interpreter, fields: Fields) -> Applied {
    let step: ForeignStep = fields.read()?;
    let joiner = functions::joiner(&step.joiner)?;
    let key_of = functions::foreign_key(&step.extractor)?;
    let Table::Plain(right) = at.table(&step.right)? else {
        let what = "a foreign key has no window";
        return Err(Stop::Refused(what.to_owned()));
    };
    let table = match at.table(&step.left)? {
        Table::Plain(left) => {
            let through = step.through(KeyCodec);
            let sides = (&left, &right);
            match at.is_kept(&step.id, &step.store) {
                true => {
                    let store = at.table_store::<Key>(&step.id, &step.store)?;
                    join(sides, through, store, step.kind, key_of, joiner)?
                }
                false => join(sides, through, NoStore, step.kind, key_of, joiner)?,
            }
        }
        Table::Windowed(left) => {
            let through = step.through(WindowedKeyCodec);
            let sides = (&left, &right);
            match at.is_kept(&step.id, &step.store) {
                true => {
                    let store = at.table_store(&step.id, &step.store)?;
                    join(sides, through, store, step.kind, key_of, joiner)?
                }
                false => join(sides, through, NoStore, step.kind, key_of, joiner)?,
            }
        }
    };
    at.add_table(&step.id, table);
    Ok(())
}

impl ForeignStep {
    fn through<C: Codec>(&self, key: C) -> ForeignKey<C::Value, Text, Key, Text> {
        let name = |what: &str| intern(&format!("{}-{what}", self.id));
        ForeignKey::new(
            Topic::new(name("asking"), KeyCodec, text()),
            Topic::new(name("answering"), key, text()),
            KvStore::new(name("subscriptions"), bytes(), bytes()),
        )
    }
}

fn join<T: TableKey>(
    (left, right): (&KTable<T, Text>, &KTable<Key, Text>),
    through: ForeignKey<T, Text, Key, Text>,
    store: impl TableStore<T, Text>,
    kind: JoinType,
    key_of: KeyMapper,
    joiner: Joiner,
) -> Applied<Table> {
    let foreign = move |key: &T, value: &Text| -> Option<Key> {
        key_of(Some(&key.flat()), Some(value)).map(Key::plain)
    };
    let joined = match kind {
        JoinType::Inner => left.join_foreign(right, through, store, foreign, move |l, r| {
            joiner(None, Some(l), Some(r))
        }),
        JoinType::Left => left.left_join_foreign(right, through, store, foreign, move |l, r| {
            joiner(None, Some(l), r.map(String::as_str))
        }),
        JoinType::Outer => {
            let what = "there is no outer join by a foreign key";
            return Err(Stop::Refused(what.to_owned()));
        }
    };
    Ok(T::table(joined))
}
