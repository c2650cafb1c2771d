//! Rate.
#![allow(clippy::all)]
use std::{sync::{Arc, atomic::{AtomicU64, Ordering}}, time::{Duration, Instant}, collections::HashSet};
use millstream_broker::{Broker, OwnedRecord, Start, TopicPartition, embedded::{EmbeddedBroker, EmbeddedConfig}};
use millstream_processors::{model::*, payment::*, sql::Tables, topics::*, topology::{ShopPolicy, shop}};
use millstream_runtime::{Application, Config};
use millstream_sinks::Database;
use millstream_topology::{Headers, Topic, partition_for_key};
fn cpu() -> f64 { let s = std::fs::read_to_string("/proc/self/stat").unwrap(); let v: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect(); (v[11].parse::<f64>().unwrap() + v[12].parse::<f64>().unwrap())/100.0 }
fn rss() -> u64 { let s = std::fs::read_to_string("/proc/self/statm").unwrap(); s.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()*4096/1048576 }
fn send<K: 'static, V: 'static>(b: &Arc<dyn millstream_broker::Appender>, t: Topic<K,V>, k: &K, v: &V, n: &Arc<AtomicU64>) {
    let (mut kk, mut vv) = (vec![], vec![]);
    t.key().encode(k, &mut kk).unwrap(); t.value().encode(v, &mut vv).unwrap();
    let p = partition_for_key(&kk, 4);
    loop {
        let n = n.clone();
        match b.append(OwnedRecord{ to: TopicPartition::new(t.name(), p), timestamp: 1, key: Some(kk.clone().into()), value: Some(vv.clone().into()), headers: Headers::default()}, Box::new(move |r| { r.unwrap(); n.fetch_add(1, Ordering::Relaxed); })) {
            Ok(()) => return,
            Err(millstream_broker::Error::Full) => std::thread::sleep(Duration::from_millis(1)),
            Err(e) => panic!("{e}"),
        }
    }
}
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let n: usize = std::env::args().nth(1).map_or(3000, |s| s.parse().unwrap());
    let lines: usize = std::env::args().nth(2).map_or(10, |s| s.parse().unwrap());
    let skus = 20_000usize;
    let folder = std::env::temp_dir().join("procdev-rate"); let _ = std::fs::remove_dir_all(&folder); std::fs::create_dir_all(&folder).unwrap();
    let broker: Arc<dyn Broker> = EmbeddedBroker::open(&folder.join("log"), EmbeddedConfig::default()).unwrap();
    broker.admin().unwrap().create_topics(&new_topics(4)).unwrap();
    let db = Database::connect(&format!("sqlite://{}", folder.join("s.db").display())).await.unwrap();
    let books = Tables::open(db).await.unwrap();
    let gw = Arc::new(SimulatedGateway::open(books.clone()));
    let worker = GatewayWorker::start(broker.clone(), gw, tokio::runtime::Handle::current(), WorkerConfig::new("shop","0")).unwrap();
    let app = Application::start(&shop(&ShopPolicy::default()).unwrap(), broker.clone(), Config{threads: 2, ..Config::new("shop", folder.join("state"))}).unwrap();
    let done = Arc::new(AtomicU64::new(0));
    let ap = broker.appender().unwrap();
    let sku = |i: usize| -> Sku { format!("{}", 800000 + i).parse().unwrap() };
    for i in 0..skus {
        send(&ap, PRODUCTS, &sku(i), &Some(Product{sku: sku(i), name: format!("PRODUCT NAME {i}").into(), category: Some("GROCERY".into()), price: 100, currency: Currency::USD, description: None}), &done);
        send(&ap, INVENTORY_COMMANDS, &sku(i), &InventoryCommand::Set{adjustment_id: "first".into(), on_hand: 1_000_000, reason: "import".into()}, &done);
    }
    let mut r = broker.reader().unwrap();
    let parts = |t: &str| (0..4).map(|p| (TopicPartition::new(t, p), Start::Earliest)).collect::<Vec<_>>();
    r.assign(&parts(INVENTORY_EVENTS.name())).unwrap();
    let mut got = 0; let mut f = vec![];
    while got < skus { f.clear(); r.poll(Duration::from_millis(50), 5000, &mut f).unwrap(); got += f.len(); }
    println!("stocked, rss {} MiB", rss());
    let cust: CustomerId = "household-17".parse().unwrap();
    let t0 = Instant::now(); let c0 = cpu();
    let mut x = 12345u64;
    for i in 0..n {
        let id = OrderId::derived(&cust, &i.to_string());
        let mut seen = HashSet::new();
        let mut ls = vec![];
        while ls.len() < lines { x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); let s = ((x >> 33) as usize) % skus; if seen.insert(s) { ls.push(RequestedLine{sku: sku(s), quantity: 1 + (x >> 60) as u32 % 3}); } }
        send(&ap, ORDERS, &id, &OrderCommand::Place(PlaceOrder{customer_id: cust.clone(), currency: Currency::USD, lines: ls, token: "tok_approve".into(), expected_total: None, placed_at: 1_483_272_000_000 + (i as i64)*200_000, fingerprint: uuid::Uuid::nil()}), &done);
    }
    println!("appended in {:?}", t0.elapsed());
    r.assign(&parts(ORDER_EVENTS.name())).unwrap();
    let mut fin = 0; let mut cap = 0;
    let mut last = Instant::now();
    while cap < n { f.clear(); r.poll(Duration::from_millis(50), 5000, &mut f).unwrap();
        for x in &f { let v = x.value.as_ref().unwrap(); if v.starts_with(b"{\"type\":\"order.confirmed\"") || v.starts_with(b"{\"type\":\"order.cancelled\"") { fin += 1; if fin == n { println!("all final: {:?} = {:.0}/s cpu {:.1}s", t0.elapsed(), n as f64/t0.elapsed().as_secs_f64(), cpu()-c0); } } if v.starts_with(b"{\"type\":\"order.payment") { cap += 1; } }
        if t0.elapsed() > Duration::from_secs(8) {
            use std::collections::BTreeMap;
            let mut by: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
            for t in [PAYMENT_INTENTS.name(), PAYMENT_RESULTS.name(), ORDER_EVENTS.name()] {
                let mut r = broker.reader().unwrap(); r.assign(&parts(t)).unwrap();
                let mut g = vec![]; let mut idle = 0; let mut c: BTreeMap<String, usize> = BTreeMap::new();
                while idle < 5 { let b = g.len(); r.poll(Duration::from_millis(50), 5000, &mut g).unwrap(); if g.len()==b { idle += 1; } }
                let mut low = vec![0i64;4];
                for x in &g { let v: serde_json::Value = serde_json::from_slice(x.value.as_ref().unwrap()).unwrap(); let k = format!("{} {} {} {}", t, v["type"], v["action"], v["attempt"]); *c.entry(k).or_default() += 1; low[x.partition.0 as usize] = low[x.partition.0 as usize].max(x.offset);
                    by.entry(String::from_utf8_lossy(x.key.as_ref().unwrap()).into_owned()).or_default().entry(format!("{} {} {}", t, v["type"], v["attempt"])).or_insert(x.offset as usize * 10 + x.partition.0 as usize); }
                println!("{c:#?} last {low:?}");
            }
            let places: Vec<_> = (0..4).map(|p| TopicPartition::new(PAYMENT_INTENTS.name(), p)).collect();
            println!("worker committed {:?}", broker.admin().unwrap().committed("shop-gateway", &places));
            let places: Vec<_> = (0..4).map(|p| TopicPartition::new(PAYMENT_RESULTS.name(), p)).collect();
            println!("app committed {:?}", broker.admin().unwrap().committed("shop", &places));
            for (k, m) in by.iter().filter(|(_, m)| !m.keys().any(|x| x.contains("payment-updated"))).take(3) { println!("{k} {m:#?}"); }
            std::process::exit(1);
        }
        if last.elapsed() > Duration::from_secs(1) { last = Instant::now(); println!("  {:?} final {fin} captured {cap} rss {}", t0.elapsed(), rss()); }
    }
    println!("all captured: {:?} = {:.0}/s cpu {:.1}s = {:.0} us/order rss {} MiB", t0.elapsed(), n as f64/t0.elapsed().as_secs_f64(), cpu()-c0, (cpu()-c0)*1e6/n as f64, rss());
    worker.stop(); app.close().unwrap();
}
