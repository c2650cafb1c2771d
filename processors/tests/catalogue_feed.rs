//! The catalogue follows its topic over an embedded log.

use std::{sync::Arc, time::Duration};

use millstream_broker::{
    Broker, NewTopic, OwnedRecord, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_processors::{
    catalogue::{Catalogue, Feed, ProductQuery},
    model::{Currency, Product, Sku},
    topics::{PRODUCTS, new_topics},
};
use millstream_topology::{Headers, partition_for_key};

const PATIENCE: Duration = Duration::from_secs(30);
const PARTITIONS: u32 = 3;

fn sku(n: u32) -> Sku {
    n.to_string().parse().expect("legal")
}

fn product(n: u32, name: &str) -> Product {
    let (category, description, currency) = (None, None, Currency::USD);
    Product {
        sku: sku(n),
        name: name.into(),
        category,
        price: 1,
        currency,
        description,
    }
}

/// Writes a change and says where it is.
async fn write(broker: &dyn Broker, n: u32, product: Option<Product>) -> (i32, i64) {
    let key = n.to_string().into_bytes();
    let mut value = Vec::new();
    let present = PRODUCTS
        .value()
        .encode(&product, &mut value)
        .expect("encodes");
    let partition = partition_for_key(&key, PARTITIONS);
    append(broker, partition, key, present.then_some(value)).await
}

async fn append(
    broker: &dyn Broker,
    partition: i32,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
) -> (i32, i64) {
    let (done, offset) = tokio::sync::oneshot::channel();
    let record = OwnedRecord {
        to: TopicPartition::new(PRODUCTS.name(), partition),
        timestamp: 0,
        key: Some(key.into()),
        value: value.map(Into::into),
        headers: Headers::default(),
    };
    let tell = Box::new(move |result: millstream_broker::Result<i64>| {
        let _gone = done.send(result.expect("durable"));
    });
    broker
        .appender()
        .expect("appender")
        .append(record, tell)
        .expect("room");
    (partition, offset.await.expect("told"))
}

#[tokio::test]
async fn the_catalogue_has_what_is_in_the_topic_and_what_comes_after() {
    let folder = tempfile::tempdir().expect("a folder");
    let broker: Arc<dyn Broker> =
        EmbeddedBroker::open(folder.path(), EmbeddedConfig::default()).expect("a log");
    let topics: Vec<NewTopic> = new_topics(PARTITIONS);
    broker
        .admin()
        .expect("admin")
        .create_topics(&topics)
        .expect("topics are created");
    for n in 0..20 {
        write(&*broker, n, Some(product(n, "Tea"))).await;
    }
    let catalogue = Arc::new(Catalogue::default());
    let feed = Feed::start(broker.clone(), catalogue.clone()).expect("a thread");
    assert!(feed.wait_complete(PATIENCE).await);
    assert_eq!(catalogue.len(), 20);

    // What does not decode is left out, and what comes behind it is read.
    append(&*broker, 0, b"0".to_vec(), Some(b"no json".to_vec())).await;
    let (partition, offset) = write(&*broker, 7, Some(product(7, "Green coffee"))).await;
    assert!(feed.wait_for(partition, offset, PATIENCE).await);
    let words = Some("coffee".to_owned());
    let found = catalogue.page(&ProductQuery {
        words,
        limit: 5,
        ..ProductQuery::default()
    });
    assert_eq!(found.items.len(), 1);

    let (partition, offset) = write(&*broker, 7, None).await;
    assert!(feed.wait_for(partition, offset, PATIENCE).await);
    assert_eq!(catalogue.get(&sku(7)), None);
    assert!(
        !feed
            .wait_for(partition, offset + 1, Duration::from_millis(1))
            .await
    );
    assert!(feed.is_complete());
}
