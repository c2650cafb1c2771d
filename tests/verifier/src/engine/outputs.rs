//! `Outputs`: what must stand in the outputs, and whether it does.

use std::{collections::HashMap, sync::Arc, time::Duration};

use millstream_broker::{Error as LogError, TopicPartition};
use millstream_topology::{Error as TopologyError, ErrorKind, partition_for_key};

use super::{
    compare::{self, Compared, Wrong},
    mark::{Due, Found, Mark, Origin},
    part::{Emission, Part, TaskInput},
    promises::OUTPUT,
    reference::Made,
};
use crate::{Error, Result, Row, Scan, scan::Range};

/// What one task must have written to one partition: its sub-topology and partition first.
type Sequence = ((usize, i32), Vec<Due>);

struct Output {
    name: Arc<str>,
    emission: Emission,
    /// By partition, what each task must have written there.
    partitions: Vec<Vec<Sequence>>,
    /// Records without a key, which may be in any partition.
    spread: Vec<Due>,
    /// Why it cannot be compared.
    unknown: Option<String>,
}

pub(super) struct Outputs {
    outputs: Vec<Output>,
    by_name: HashMap<Arc<str>, usize>,
    inputs: Vec<TopicPartition>,
    input_numbers: HashMap<TopicPartition, u32>,
}

impl Outputs {
    pub(super) fn new(scan: &Scan<'_>, parts: &[Part<'_>]) -> Result<Self> {
        let mut all = Self {
            outputs: Vec::new(),
            by_name: HashMap::new(),
            inputs: Vec::new(),
            input_numbers: HashMap::new(),
        };
        for (name, emission) in parts.iter().flat_map(|part| &part.outputs) {
            if let Some(known) = all.by_name.get(name) {
                if *emission == Emission::Latest {
                    all.outputs[*known].emission = *emission;
                }
                continue;
            }
            let partitions = scan.ends(name)?.len();
            if partitions == 0 {
                let missing = TopicPartition::new(name.clone(), 0);
                return Err(LogError::UnknownPartition(missing).into());
            }
            all.by_name.insert(name.clone(), all.outputs.len());
            all.outputs.push(Output {
                name: name.clone(),
                emission: *emission,
                partitions: vec![Vec::new(); partitions],
                spread: Vec::new(),
                unknown: None,
            });
        }
        Ok(all)
    }

    /// A reference has made that record of the input at that place: the number of its range, and
    /// its offset.
    pub(super) fn add(
        &mut self,
        part: usize,
        input: &TaskInput,
        task: i32,
        made: &Made,
        (range, offset): (usize, i64),
    ) -> Result {
        let origin = Origin {
            partition: self.number(&input.ranges[range].partition),
            offset,
        };
        let Some(output) = self.by_name.get(&made.topic) else {
            let topic = &made.topic;
            let what = format!("a reference writes what its part does not. topic=`{topic}`");
            return Err(TopologyError::new(ErrorKind::Config, what).into());
        };
        let output = &mut self.outputs[*output];
        let (key, value) = (made.key.as_deref(), made.value.as_deref());
        let due = Due {
            mark: Mark::of(key, value, made.timestamp, &made.headers),
            origin,
        };
        let count = output.partitions.len();
        let partition = match (made.partition, key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_for_key(key, count as u32),
            (None, None) if count == 1 => 0,
            (None, None) => {
                output.spread.push(due);
                return Ok(());
            }
        };
        let sequences = output
            .partitions
            .get_mut(partition as usize)
            .ok_or_else(|| {
                let missing = TopicPartition::new(made.topic.clone(), partition);
                Error::from(LogError::UnknownPartition(missing))
            })?;
        match sequences.last_mut() {
            Some((of, dues)) if *of == (part, task) => dues.push(due),
            Some(_) | None => sequences.push(((part, task), vec![due])),
        }
        Ok(())
    }

    /// The first input of a task is gone: what it wrote cannot be computed again.
    pub(super) fn forget(&mut self, part: &Part<'_>, input: &[Range]) {
        let gone = input.iter().find(|range| range.from > 0);
        let Some(Range {
            partition, from, ..
        }) = gone
        else {
            return;
        };
        for (name, _) in &part.outputs {
            let output = &mut self.outputs[self.by_name[name]];
            output.unknown.get_or_insert_with(|| {
                format!("the first input is deleted. output=`{name}`, input=`{partition}`@{from}")
            });
        }
    }

    fn number(&mut self, partition: &TopicPartition) -> u32 {
        if let Some(number) = self.input_numbers.get(partition) {
            return *number;
        }
        let number = self.inputs.len() as u32;
        self.inputs.push(partition.clone());
        self.input_numbers.insert(partition.clone(), number);
        number
    }

    /// Compares all outputs with the log, partition by partition.
    pub(super) fn compare(self, scan: &Scan<'_>, silence: Duration) -> Result<Row> {
        let mut row = Row::new(OUTPUT);
        for output in &self.outputs {
            match &output.unknown {
                Some(why) => row.bound(|| why.clone()),
                None => self.compare_output(output, scan, silence, &mut row)?,
            }
        }
        Ok(row)
    }

    fn compare_output(
        &self,
        output: &Output,
        scan: &Scan<'_>,
        silence: Duration,
        row: &mut Row,
    ) -> Result {
        let mut spread: Vec<Found> = Vec::new();
        for (partition, ends) in scan.ends(&output.name)? {
            let number = partition.partition;
            if ends.low > 0 && output.emission == Emission::Every {
                row.bound(|| {
                    let low = ends.low;
                    format!("the first records are deleted. output=`{partition}`, low={low}")
                });
                continue;
            }
            let ranges = [Range {
                partition,
                from: ends.low,
                to: ends.high,
            }];
            let mut found: Vec<Found> = Vec::new();
            scan.until_silent(&ranges, silence, &mut |_, record| {
                let (key, value) = (record.key.as_deref(), record.value.as_deref());
                let is_spread = key.is_none() && !output.spread.is_empty();
                let into = if is_spread { &mut spread } else { &mut found };
                into.push(Found {
                    mark: Mark::of(key, value, record.timestamp, &record.headers),
                    offset: record.offset,
                    partition: number,
                });
                Ok::<_, Error>(())
            })?;
            let tasks = &output.partitions[number as usize];
            let tasks: Vec<&[Due]> = tasks.iter().map(|(_, dues)| &**dues).collect();
            let compared = match output.emission {
                Emission::Every => compare::every(&tasks, &found),
                Emission::Latest => compare::latest(&tasks, &found),
            };
            self.tell(output, number, found.len(), compared, row);
        }
        let compared = compare::pool(&output.spread, &spread);
        self.tell(output, 0, spread.len(), compared, row);
        Ok(())
    }

    fn tell(
        &self,
        output: &Output,
        partition: i32,
        found: usize,
        compared: Compared,
        row: &mut Row,
    ) {
        let name = &output.name;
        if compared.order_unknown {
            row.bound(|| format!("equal records of several tasks. output=`{name}-{partition}`"));
        }
        row.hold(found as u64);
        let input = |of: &Origin| {
            let (from, offset) = (&self.inputs[of.partition as usize], of.offset);
            format!("made of `{from}`@{offset}")
        };
        let place = |found: &Found| {
            format!(
                "partition=`{name}-{}`, offset={}",
                found.partition, found.offset
            )
        };
        for wrong in &compared.wrong {
            row.checked += u64::from(matches!(wrong, Wrong::Lost(_)));
            row.breaks(|| match wrong {
                Wrong::Lost(due) => {
                    let of = input(&due.origin);
                    format!("a record is lost. partition=`{name}-{partition}`, {of}")
                }
                Wrong::Twice(found) => format!("a record stands there again. {}", place(found)),
                Wrong::Extra(found) => format!("nothing makes this record. {}", place(found)),
                Wrong::Order(found) => format!("a record is out of order. {}", place(found)),
                Wrong::Differs { due, found } => {
                    let (place, of) = (place(found), input(&due.origin));
                    let parts = due.mark.differences(&found.mark);
                    format!("a record has another {parts}. {place}, {of}")
                }
            });
        }
    }
}
