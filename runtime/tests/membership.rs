//! A commit proves that its tasks are still the member's: brokers look at that only where offsets
//! are committed with it.

mod sim_bed;

use std::{collections::BTreeMap, time::Duration};

use millstream_broker::{TopicPartition, sim::SimConfig};
use millstream_operators::{Clock, Context, KvHandle, Processor, Punctuation, StreamsBuilder};
use millstream_topology::{KvStore, Record, Result, Topic, text, u64_be};
use sim_bed::{APP, Bed, Machine};

const IN: Topic<String, String> = Topic::new("in", text(), text());
const TICKS: KvStore<String, u64> = KvStore::new("ticks", text(), u64_be());

/// Counts the time that passes, whether records come or not.
struct Ticker(KvHandle<String, u64>);

impl Processor for Ticker {
    type Key = String;
    type Value = String;
    type OutKey = String;
    type OutValue = String;

    fn init(&mut self, cx: &mut Context<'_, '_, String, String>) -> Result<()> {
        cx.schedule(Duration::from_millis(100), Clock::Wall);
        Ok(())
    }

    fn process(
        &mut self,
        _: &mut Context<'_, '_, String, String>,
        _: Record<String, String>,
    ) -> Result<()> {
        Ok(())
    }

    fn punctuate(
        &mut self,
        cx: &mut Context<'_, '_, String, String>,
        tick: Punctuation,
    ) -> Result<()> {
        let ticks = cx.store(self.0).get(&"all".to_owned())?.unwrap_or(0);
        cx.store(self.0)
            .put(&"all".to_owned(), ticks + 1, tick.time_ms)
    }
}

#[test]
fn what_timers_alone_have_done_is_committed_with_an_offset() {
    let b = StreamsBuilder::new();
    b.stream(IN).process(TICKS, Ticker);
    let topology = b.build().expect("builds");
    let bed = Bed::new(SimConfig::default(), &[IN.name()], 1);
    let mut app = bed.start(&topology, &Machine::new("one"), |_| ());
    let input = TopicPartition::new(IN.name(), 0);
    let mut apps = [&mut app];
    let ticks = |apps: &[&mut millstream_runtime::Stepped]| {
        let found = apps[0].queries().get(&TICKS, &"all".to_owned());
        found.ok().flatten().map_or(0, |(ticks, _)| ticks)
    };
    bed.until(&mut apps, "time is counted", |apps| ticks(apps) > 0);
    let offsets = || bed.log.group(APP).offsets;
    assert_eq!(offsets(), BTreeMap::from([(input.clone(), 0)]));

    bed.append(IN.name(), "k", Some("x"));
    bed.settle(&mut apps, IN.name());
    let (before, at) = (ticks(&apps), offsets()[&input]);
    bed.until(&mut apps, "time is counted", |apps| {
        ticks(apps) > before + 3
    });
    assert_eq!(offsets()[&input], at, "it stays where it is");
}
