//! A transactional producer of the simulated log.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    faults::{Call, Fault},
    group::Proof,
    state::{Handle, Place, State},
};
use crate::{
    Error, GroupMetadata, Outgoing, OwnedRecord, Producer, ProducerError, TopicIx, TopicPartition,
};

pub(super) struct SimProducer {
    handle: Handle,
    id: Arc<str>,
    /// 0 before `init`.
    epoch: u32,
    open: bool,
    broken: Option<Broken>,
    topics: Vec<Arc<str>>,
    /// Behind the newest record of the open transaction, by partition.
    written: BTreeMap<(TopicIx, i32), i64>,
    ends: BTreeMap<(TopicIx, i32), i64>,
}

/// What an error has left this producer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    MustAbort,
    Fenced,
    Fatal,
}

impl SimProducer {
    pub(super) fn new(handle: Handle, id: &str) -> Self {
        Self {
            handle,
            id: id.into(),
            epoch: 0,
            open: false,
            broken: None,
            topics: Vec::new(),
            written: BTreeMap::new(),
            ends: BTreeMap::new(),
        }
    }

    /// That this producer may go on, with a transaction open or not.
    fn ready(&self, open: bool) -> Result<(), ProducerError> {
        match self.broken {
            None => {}
            Some(Broken::MustAbort) => {
                return Err(ProducerError::Abort("an earlier call failed".into()));
            }
            Some(Broken::Fenced) => {
                return Err(ProducerError::Fenced("it was fenced before".into()));
            }
            Some(Broken::Fatal) => {
                return Err(ProducerError::Fatal("an earlier call failed".into()));
            }
        }
        let out_of_order = |what| Err(ProducerError::Fatal(Error::State(what).into()));
        match (self.epoch, open, self.open) {
            (0, _, _) => out_of_order("the producer was not initialised"),
            (_, true, false) => out_of_order("no transaction is open"),
            (_, false, true) => out_of_order("a transaction is open already"),
            (_, true, true) | (_, false, false) => Ok(()),
        }
    }

    fn call<T>(
        &mut self,
        call: Call,
        effect: impl FnOnce(&mut State, &Arc<str>, u32, Option<Fault>) -> Result<T, ProducerError>,
    ) -> Result<T, ProducerError> {
        let (id, epoch) = (&self.id, self.epoch);
        let place = Place::Producer(id, epoch);
        let result = self
            .handle
            .call(call, &place, |state, fault| effect(state, id, epoch, fault));
        match &result {
            Ok(_) => {}
            Err(ProducerError::Abort(_)) => self.broken = Some(Broken::MustAbort),
            Err(ProducerError::Fenced(_)) => self.broken = Some(Broken::Fenced),
            Err(ProducerError::Fatal(_)) => self.broken = Some(Broken::Fatal),
        }
        result
    }
}

impl Producer for SimProducer {
    fn init(&mut self) -> Result<(), ProducerError> {
        self.open = false;
        self.written.clear();
        self.epoch = self.call(Call::Init, |state, id, _, _| Ok(state.init(id)))?;
        self.broken = None;
        Ok(())
    }

    fn topic(&mut self, name: &str) -> TopicIx {
        let known = self.topics.iter().position(|topic| &**topic == name);
        let ix = known.unwrap_or_else(|| {
            self.topics.push(name.into());
            self.topics.len() - 1
        });
        TopicIx(ix as u32)
    }

    fn begin(&mut self) -> Result<(), ProducerError> {
        self.ready(false)?;
        self.epoch = self.call(Call::Begin, |state, id, epoch, _| state.begin(id, epoch))?;
        self.open = true;
        Ok(())
    }

    fn send(&mut self, record: Outgoing<'_>) -> Result<(), ProducerError> {
        self.ready(true)?;
        let Some(topic) = self.topics.get(record.topic.0 as usize) else {
            let unknown = Error::State("the topic was not numbered by this producer");
            return Err(ProducerError::Fatal(unknown.into()));
        };
        let owned = OwnedRecord {
            to: TopicPartition::new(topic.clone(), record.partition),
            timestamp: record.timestamp,
            key: record.key.map(Bytes::copy_from_slice),
            value: record.value.map(Bytes::copy_from_slice),
            headers: record.headers.clone(),
        };
        let offset = self.call(Call::Send, |state, id, epoch, _| {
            state.send(id, epoch, owned)
        })?;
        self.written
            .insert((record.topic, record.partition), offset + 1);
        Ok(())
    }

    fn drain(&mut self) -> Result<(), ProducerError> {
        self.ready(true)?;
        self.call(Call::Drain, |state, id, epoch, _| {
            state.late_end_arrives(id, epoch)
        })
    }

    fn send_offsets(
        &mut self,
        offsets: &[(TopicPartition, i64)],
        group: &GroupMetadata,
    ) -> Result<(), ProducerError> {
        self.ready(true)?;
        let Some(proof) = group.get::<Proof>() else {
            let foreign = Error::State("the group metadata is of another log");
            return Err(ProducerError::Fatal(foreign.into()));
        };
        self.call(Call::SendOffsets, |state, id, epoch, _| {
            state.send_offsets(id, epoch, offsets, proof)
        })
    }

    fn commit(&mut self) -> Result<(), ProducerError> {
        self.ready(true)?;
        self.call(Call::Commit, |state, id, epoch, fault| {
            state.commit(id, epoch, fault)
        })?;
        self.open = false;
        self.ends.append(&mut self.written);
        Ok(())
    }

    fn abort(&mut self) -> Result<(), ProducerError> {
        let was_open = self.open;
        if self.broken == Some(Broken::MustAbort) {
            self.broken = None;
        }
        self.ready(was_open)?;
        self.call(Call::Abort, |state, id, epoch, fault| {
            state.abort(id, epoch, fault)
        })?;
        self.open = false;
        self.written.clear();
        Ok(())
    }

    fn ends(&self, each: &mut dyn FnMut(TopicIx, i32, i64)) {
        for (&(topic, partition), &end) in &self.ends {
            each(topic, partition, end);
        }
    }
}
