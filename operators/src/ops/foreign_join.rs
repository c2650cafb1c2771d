//! Foreign-key join: rows of a table with the rows of another that they refer to.

use std::sync::Arc;

use bytes::Bytes;
use millstream_state::KvDefinition;
use millstream_topology::{
    Change, Error, ErrorKind, KvStore, NodeId, NodeKind, Record, Result, Serde, StoreId, Topic,
    TopicRole, bytes, nullable,
};

use crate::{
    Cx, ForeignKey, KStream, KTable, TableStore,
    builder::add_node,
    edge::{Next, edge},
    ops::{
        foreign_format::{Answer, Hash, Instruction, Question, hash, subscriptions_of},
        sink::sink_any_key,
        source::{Origin, bad, source},
        table::to_table,
    },
};

/// The foreign key of a row, if it has one.
pub(crate) type KeyOf<K, V, FK> = Arc<dyn Fn(&K, &V) -> Option<FK> + Send + Sync>;

/// Combines a left row and its partner; `None` deletes the result.
pub(crate) type Pair<V, T, VO> = Arc<dyn Fn(&V, Option<&T>) -> Option<VO> + Send + Sync>;

/// What a join does with left rows that have no partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Inner,
    Left,
}

/// Between the two sides there is a topic each way.
const ROLE: TopicRole = TopicRole::Repartition { partitions: None };

/// A foreign key, or none, and a question about the row that has it.
type Questions = KStream<Option<Bytes>, Bytes>;
/// The key of a left row, and an answer.
type Answers = KStream<Option<Bytes>, Bytes>;

/// A result has the timestamp of the right row if that has changed, the greater one of both if the
/// left one has, and the headers of the change.
pub(crate) fn foreign_join<K, V, FK, T, VO>(
    (left, right): (&KTable<K, V>, &KTable<FK, T>),
    through: ForeignKey<K, V, FK, T>,
    store: impl TableStore<K, VO>,
    kind: Kind,
    key_of: KeyOf<K, V, FK>,
    pair: Pair<V, T, VO>,
) -> KTable<K, VO>
where
    K: Clone + 'static,
    V: Clone + 'static,
    FK: Clone + 'static,
    T: Clone + 'static,
    VO: Clone + 'static,
{
    let draft = left.draft.clone();
    left.need_values();
    right.need_values();
    let questions = raw(through.questions.name());
    sink_any_key(ask(left, through, kind, key_of), questions, ROLE);
    let asked = source(&draft, Origin::Topics(vec![questions]), ROLE, None);

    let answers = raw(through.answers.name());
    let inputs = [asked.id, right.id];
    let (subscribed, subscriptions) = subscribe(asked, right, through);
    draft.lock().plan.copartition(subscribed.id, &inputs);
    draft.meets(&right.draft, subscribed.id);
    sink_any_key(subscribed, answers, ROLE);
    sink_any_key(tell(right, through, subscriptions), answers, ROLE);
    let answered = source(&draft, Origin::Topics(vec![answers]), ROLE, None);

    let inputs = [answered.id, left.id];
    let resolved = resolve(answered, left, through, kind, pair);
    draft.lock().plan.copartition(resolved.id, &inputs);
    to_table(resolved, store)
}

/// A topic of the join, read and written as bytes.
fn raw(name: &'static str) -> Topic<Option<Bytes>, Bytes> {
    Topic::new(name, nullable(bytes()), bytes())
}

/// Makes questions of the changes of the left table.
fn ask<K, V, FK, T>(
    left: &KTable<K, V>,
    through: ForeignKey<K, V, FK, T>,
    kind: Kind,
    key_of: KeyOf<K, V, FK>,
) -> Questions
where
    K: Clone + 'static,
    V: Clone + 'static,
    FK: 'static,
    T: 'static,
{
    left.want_old_values();
    let (keys, values) = (through.answers.key(), through.questions.value());
    let foreign_keys = through.questions.key();
    messages(left, NodeKind::ForeignKey, move |cx, key: &K, change| {
        let foreign_key = |value: &Option<V>| -> Result<Option<Bytes>> {
            let found = value.as_ref().and_then(|value| key_of(key, value));
            let found = found.map(|found| encoded(&foreign_keys, &found, "foreign key"));
            found.transpose()
        };
        let (old, new) = (foreign_key(&change.old)?, foreign_key(&change.new)?);
        if kind == Kind::Inner && change.new.is_some() && new.is_none() {
            cx.counters.dropped += 1;
        }
        let row = encoded(&keys, key, "key")?;
        let hash = match &change.new {
            Some(new) => Some(hash(&encoded(&values, new, "value")?)),
            None => None,
        };
        let was_there = change.old.is_some() || change.new.is_some();
        let questions = instructions(kind, was_there, old, new).into_iter();
        Ok(questions
            .flatten()
            .map(|(foreign_key, instruction)| {
                let row = row.clone();
                let question = Question {
                    instruction,
                    hash,
                    row,
                };
                (foreign_key, question.encode())
            })
            .collect())
    })
}

/// Whom to ask, and what for, when the foreign key of a row changes from `old` to `new` (Kafka
/// Streams from 4.1 on: KAFKA-16394, KAFKA-16407, KAFKA-18713). `was_there` is false when a row is
/// deleted that there was not.
fn instructions(
    kind: Kind,
    was_there: bool,
    old: Option<Bytes>,
    new: Option<Bytes>,
) -> [Option<(Option<Bytes>, Instruction)>; 2] {
    use Instruction::{Answer, AnswerIfFound, Forget, ForgetAndAnswer};
    let changed = old != new;
    match (kind, old, new) {
        (Kind::Left, ..) if !was_there => [None, None],
        (Kind::Left, Some(old), new) if changed => [Some((Some(old), Forget)), Some((new, Answer))],
        (Kind::Left, _, new) => [Some((new, Answer)), None],
        (Kind::Inner, Some(old), Some(new)) if changed => {
            [Some((Some(old), Forget)), Some((Some(new), Answer))]
        }
        (Kind::Inner, _, Some(new)) => [Some((Some(new), AnswerIfFound)), None],
        (Kind::Inner, Some(old), None) => [Some((Some(old), ForgetAndAnswer)), None],
        (Kind::Inner, None, None) => [None, None],
    }
}

/// Remembers who asked for a row of the right table, and answers.
fn subscribe<K, V, FK, T>(
    asked: Questions,
    right: &KTable<FK, T>,
    through: ForeignKey<K, V, FK, T>,
) -> (Answers, StoreId)
where
    K: 'static,
    V: 'static,
    FK: 'static,
    T: 'static,
{
    let draft = asked.draft.clone();
    let node = NodeId(draft.lock().plan.nodes().len());
    let (getter, store) = (right.getter.clone(), through.subscriptions);
    let (foreign_keys, values) = (through.questions.key(), through.answers.value());
    let out: Answers = asked.unary(NodeKind::ForeignSubscribe, move |build, next| {
        let index = build.store(build.stores_of(node)[0]);
        let look_up = getter(build);
        edge(
            move |cx: &mut Cx<'_>, record: Record<Option<Bytes>, Bytes>| {
                let question = Question::decode(&record.value).map_err(bad("question"))?;
                let remembers = match question.instruction {
                    Instruction::Forget | Instruction::ForgetAndAnswer => false,
                    Instruction::Answer | Instruction::AnswerIfFound => true,
                };
                let mut found = None;
                if let Some(key) = &record.key {
                    let mut place = subscriptions_of(key);
                    place.extend_from_slice(&question.row);
                    let mut subscriptions = cx.state.kv(index, &store);
                    let (place, at) = (place.into(), record.timestamp);
                    match remembers {
                        true => subscriptions.put(&place, record.value.clone(), at)?,
                        false => subscriptions.delete(&place, at)?,
                    }
                    let key = foreign_keys.decode(Some(key)).map_err(bad("key"))?;
                    found = look_up(cx, &key)?;
                }
                let timestamp = match &found {
                    Some((_, at)) => record.timestamp.max(*at),
                    None => record.timestamp,
                };
                let value = match (question.instruction, found) {
                    (Instruction::Forget, _) | (Instruction::AnswerIfFound, None) => return Ok(()),
                    (Instruction::ForgetAndAnswer, _) | (Instruction::Answer, None) => None,
                    (Instruction::Answer | Instruction::AnswerIfFound, Some((value, _))) => {
                        Some(encoded(&values, &value, "value")?)
                    }
                };
                let answer = Answer {
                    hash: question.hash,
                    value: value.as_deref(),
                };
                let answer = Record {
                    key: Some(question.row),
                    value: answer.encode(),
                    timestamp,
                    headers: record.headers,
                };
                next.push(cx, answer)
            },
        )
    });
    assert_eq!(out.id, node, "one node was added");
    let id = {
        let mut draft = draft.lock();
        let id = draft.own_store(node, Arc::new(KvDefinition(store)));
        right
            .stores
            .iter()
            .for_each(|id| draft.plan.connect(node, *id));
        id
    };
    (out, id)
}

/// Answers all that asked for a row of the right table when it changes, by the keys of their rows.
fn tell<K, V, FK, T>(
    right: &KTable<FK, T>,
    through: ForeignKey<K, V, FK, T>,
    subscriptions: StoreId,
) -> Answers
where
    K: 'static,
    V: 'static,
    FK: Clone + 'static,
    T: Clone + 'static,
{
    let store: KvStore<Bytes, Bytes> = through.subscriptions;
    let (foreign_keys, values) = (through.questions.key(), through.answers.value());
    let out = messages_with(
        right,
        NodeKind::ForeignTable,
        move |build| build.store(subscriptions),
        move |cx, index, key: &FK, change: Change<T>| {
            let prefix = subscriptions_of(&encoded(&foreign_keys, key, "foreign key")?);
            let found = cx.state.kv(*index, &store).prefix(&prefix, usize::MAX)?;
            let value = change.new.as_ref();
            let value = value.map(|value| encoded(&values, value, "value"));
            let value = value.transpose()?;
            let answers = found.into_iter().map(|(_, question, _)| {
                let question = Question::decode(&question).map_err(bad("subscription"))?;
                let answer = Answer {
                    hash: question.hash,
                    value: value.as_deref(),
                };
                Ok((Some(question.row), answer.encode()))
            });
            answers.collect()
        },
    );
    right.draft.lock().plan.connect(out.id, subscriptions);
    out
}

/// Makes rows of the answers, if they are about what the left table still holds.
fn resolve<K, V, FK, T, VO>(
    answered: Answers,
    left: &KTable<K, V>,
    through: ForeignKey<K, V, FK, T>,
    kind: Kind,
    pair: Pair<V, T, VO>,
) -> KStream<K, Option<VO>>
where
    K: Clone + 'static,
    V: 'static,
    FK: 'static,
    T: 'static,
    VO: Clone + 'static,
{
    let draft = answered.draft.clone();
    let getter = left.getter.clone();
    let (keys, values) = (through.answers.key(), through.questions.value());
    let partners = through.answers.value();
    let out = answered.unary(NodeKind::ForeignJoin, move |build, next| {
        let (look_up, pair) = (getter(build), pair.clone());
        edge(
            move |cx: &mut Cx<'_>, record: Record<Option<Bytes>, Bytes>| {
                let Record {
                    key,
                    value,
                    timestamp,
                    headers,
                } = record;
                let answer = Answer::decode(&value).map_err(bad("answer"))?;
                let key = keys.decode(key.as_deref()).map_err(bad("key"))?;
                let present = look_up(cx, &key)?.map(|(value, _)| value);
                if answer.hash != hash_of(&values, present.as_ref())? {
                    cx.counters.dropped += 1;
                    return Ok(());
                }
                let partner = answer.value.map(|bytes| partners.decode(Some(bytes)));
                let partner = partner.transpose().map_err(bad("value"))?;
                let joined = partner.is_some() || kind == Kind::Left;
                let present = present.as_ref().filter(|_| joined);
                let value = present.and_then(|present| pair(present, partner.as_ref()));
                next.push(
                    cx,
                    Record {
                        key,
                        value,
                        timestamp,
                        headers,
                    },
                )
            },
        )
    });
    let mut plan = draft.lock();
    left.stores
        .iter()
        .for_each(|id| plan.plan.connect(out.id, *id));
    drop(plan);
    out
}

fn hash_of<V>(values: &Serde<V>, value: Option<&V>) -> Result<Option<Hash>> {
    let bytes = value.map(|value| encoded(values, value, "value"));
    Ok(bytes.transpose()?.map(|bytes| hash(&bytes)))
}

fn encoded<T>(serde: &Serde<T>, value: &T, what: &str) -> Result<Bytes> {
    let mut bytes = Vec::new();
    let written = serde.encode(value, &mut bytes);
    written.map_err(|source| {
        let what = format!("a {what} of a foreign-key join does not encode");
        Error::caused(ErrorKind::User, what, source)
    })?;
    Ok(bytes.into())
}

/// What a change leads to, under the keys of the topic that it is written to.
type Messages = Vec<(Option<Bytes>, Bytes)>;

/// A node behind a table that makes messages of its changes. Late updates of a versioned table are
/// dropped and counted.
fn messages<K, V>(
    table: &KTable<K, V>,
    kind: NodeKind,
    make: impl Fn(&mut Cx<'_>, &K, Change<V>) -> Result<Messages> + Send + Sync + 'static,
) -> KStream<Option<Bytes>, Bytes>
where
    K: Clone + 'static,
    V: Clone + 'static,
{
    let make = move |cx: &mut Cx<'_>, _: &(), key: &K, change| make(cx, key, change);
    messages_with(table, kind, |_| (), make)
}

/// As [`messages`], with something that is looked up once for each task.
fn messages_with<K, V, S: 'static>(
    table: &KTable<K, V>,
    kind: NodeKind,
    setup: impl Fn(&crate::build::TaskBuild<'_>) -> S + Send + Sync + 'static,
    make: impl Fn(&mut Cx<'_>, &S, &K, Change<V>) -> Result<Messages> + Send + Sync + 'static,
) -> KStream<Option<Bytes>, Bytes>
where
    K: Clone + 'static,
    V: Clone + 'static,
{
    let id = add_node(&table.draft, kind, &[table.id]);
    let out: KStream<Option<Bytes>, Bytes> = KStream::new(&table.draft, id, false);
    let (port, make) = (out.port.clone(), Arc::new(make));
    table.port.subscribe(Arc::new(move |build| {
        let next: Next<Option<Bytes>, Bytes> = port.connect(build);
        let (setup, make) = (setup(build), make.clone());
        let body = edge(move |cx: &mut Cx<'_>, record: Record<K, Change<V>>| {
            if !record.value.latest {
                cx.counters.dropped += 1;
                return Ok(());
            }
            for (key, value) in make(cx, &setup, &record.key, record.value)? {
                let message = Record {
                    key,
                    value,
                    timestamp: record.timestamp,
                    headers: record.headers.clone(),
                };
                next.push(cx, message)?;
            }
            Ok(())
        });
        build.node(id, body)
    }));
    out
}
