//! Those who read and write outside of the group while the storm goes on.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use millstream_broker::{
    Admin, Appender, Broker, OwnedRecord, PartitionIx, Reader, Start,
    sim::{Committed, SimClient, SimLog},
};
use millstream_topology::Headers;

use super::{
    INSTANT,
    copying::{BATCH, PARTITIONS, RECORDS, Trouble, input, output, same},
};

/// Somebody who looks at the copy while it is made.
pub(crate) struct Observer {
    client: SimClient,
    reader: Option<Box<dyn Reader>>,
    pub(crate) seen: Vec<Vec<(i64, Bytes)>>,
}

impl Observer {
    pub(crate) fn new(log: &SimLog) -> Self {
        Self {
            client: log.client("observer"),
            reader: None,
            seen: vec![Vec::new(); PARTITIONS as usize],
        }
    }

    pub(crate) fn turn(&mut self, log: &SimLog) {
        if !self.client.lives() {
            self.client = log.client("observer");
        }
        if self.look().is_err() {
            self.reader = None;
        }
    }

    fn look(&mut self) -> Result<(), Trouble> {
        let Some(reader) = &mut self.reader else {
            let mut reader = self.client.reader()?;
            let next = |partition: i32| {
                let seen = self.seen[partition as usize].last();
                let from = seen.map_or(Start::Earliest, |(offset, _)| Start::Offset(offset + 1));
                (output(partition), from)
            };
            reader.assign(&(0..PARTITIONS).map(next).collect::<Vec<_>>())?;
            self.reader = Some(reader);
            return Ok(());
        };
        let mut batch = Vec::new();
        reader.poll(INSTANT, BATCH, &mut batch)?;
        for record in batch {
            let value = record.value.expect("copies have values");
            self.seen[record.partition.0 as usize].push((record.offset, value));
        }
        for (partition, seen) in self.seen.iter().enumerate() {
            let position = reader.position(PartitionIx(partition as u32))?;
            let next = seen.last().map_or(0, |(offset, _)| offset + 1);
            assert!(position >= next, "positions are behind what was read");
        }
        Ok(())
    }

    /// That what was seen is the beginning of what is there in the end.
    pub(crate) fn verify(&self, partition: i32, written: &[Committed]) -> Result<(), String> {
        let seen = &self.seen[partition as usize];
        let whole = written.iter().map(|r| (r.offset, r.record.value.clone()));
        let begun = whole.take(seen.len());
        let should: Vec<_> = begun.map(|(at, v)| (at, v.unwrap_or_default())).collect();
        same("what readers saw", seen, &should)
    }
}

/// Offsets of records that are known to be written, and their numbers.
type Acknowledged = Arc<Mutex<Vec<(i64, i64)>>>;

/// Appends the second half of the input, some of it in vain or twice.
pub(crate) struct Outsider {
    client: SimClient,
    doors: Option<(Arc<dyn Appender>, Arc<dyn Admin>)>,
    next: i64,
    acknowledged: Vec<Acknowledged>,
}

impl Outsider {
    pub(crate) fn new(log: &SimLog) -> Self {
        Self {
            client: log.client("outsider"),
            doors: None,
            next: 0,
            acknowledged: (0..PARTITIONS).map(|_| Acknowledged::default()).collect(),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.next == RECORDS * i64::from(PARTITIONS)
    }

    pub(crate) fn turn(&mut self, log: &SimLog) {
        if !self.client.lives() {
            self.client = log.client("outsider");
            self.doors = None;
        }
        if !self.is_done() && self.work().is_ok() {
            self.next += 1;
        }
    }

    fn work(&mut self) -> Result<(), Trouble> {
        if self.doors.is_none() {
            self.doors = Some((self.client.appender()?, self.client.admin()?));
        }
        let (appender, admin) = self.doors.as_ref().expect("they were made above");
        let number = self.next;
        let partition = (number % i64::from(PARTITIONS)) as i32;
        let marks = admin.watermarks(&input(partition))?;
        assert!(marks.low == 0 && marks.high > 0, "{marks:?}");
        let acknowledged = self.acknowledged[partition as usize].clone();
        let record = OwnedRecord {
            to: input(partition),
            timestamp: number,
            key: None,
            value: Some(Self::value(number)),
            headers: Headers::default(),
        };
        appender.append(
            record,
            Box::new(move |answer| {
                if let Ok(offset) = answer {
                    let mut list = acknowledged.lock().expect("one thread");
                    list.push((offset, number));
                }
            }),
        )?;
        Ok(())
    }

    fn value(number: i64) -> Bytes {
        Bytes::from(format!("appended.{number}"))
    }

    /// That whatever was acknowledged is there.
    pub(crate) fn verify(&self, partition: i32, given: &[Committed]) -> Result<(), String> {
        let mut list = self.acknowledged[partition as usize]
            .lock()
            .expect("one thread")
            .clone();
        list.sort_unstable();
        if list.is_empty() {
            return Err("nothing was acknowledged".to_owned());
        }
        for (offset, number) in list {
            let there = given.iter().find(|record| record.offset == offset);
            let value = there.and_then(|record| record.record.value.clone());
            same("acknowledged", &value, &Some(Self::value(number)))?;
        }
        Ok(())
    }
}
