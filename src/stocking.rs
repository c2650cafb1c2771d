//! Fills the shelves over HTTP: catalogue and stock.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    baskets::{Basket, CURRENCY, Product, StockRow},
    client::{Answer, Call, Connection, Server},
    failure::{Failure, Outcome},
    replay::spread,
};

/// How long one product is tried.
const GIVE_UP: Duration = Duration::from_secs(60);
/// How long the shop may take to work off what it has accepted.
const SETTLE_MAX: Duration = Duration::from_secs(120);
/// How often it is asked whether it has.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Of so many products one is short.
const ONE_SHORT_OF: u64 = 100;
/// Pieces beyond the demand that a product that is not short gets.
const RESERVE: i64 = 10;

/// Stock for these baskets: most products have enough, a few have three quarters of what is wanted.
pub(crate) fn stock_for<'a>(baskets: impl Iterator<Item = &'a Basket>) -> Vec<StockRow> {
    let mut demand: BTreeMap<String, i64> = BTreeMap::new();
    for basket in baskets {
        for line in &basket.lines {
            *demand.entry(line.sku.clone()).or_default() += i64::from(line.quantity);
        }
    }
    let supply = |(sku, pieces): (String, i64)| {
        let short = spread(&sku).is_multiple_of(ONE_SHORT_OF);
        let quantity = if short {
            pieces * 3 / 4
        } else {
            pieces + RESERVE
        };
        StockRow { sku, quantity }
    };
    demand
        .into_iter()
        .map(supply)
        .filter(|row| row.quantity > 0)
        .collect()
}

/// Puts products into the catalogue; one that is there is replaced.
pub(crate) async fn put_products(
    server: &Server,
    clients: usize,
    products: Vec<Product>,
) -> Outcome<usize> {
    let steps = products.into_iter().map(Step::Put).collect();
    work(server, clients, steps).await
}

/// Adds pieces to the stock; the same list under the same name counts once. Returns when the shop
/// has counted all.
pub(crate) async fn add_stock(
    server: &Server,
    clients: usize,
    list: &str,
    rows: Vec<StockRow>,
) -> Outcome<usize> {
    let list: Arc<str> = list.into();
    let steps = rows
        .iter()
        .map(|row| Step::Add(list.clone(), row.clone()))
        .collect();
    work(server, clients, steps).await?;
    // What was accepted is durable, but not yet counted; an order that came before would find
    // nothing.
    let steps = rows
        .into_iter()
        .map(|row| Step::Count(list.clone(), row.sku))
        .collect();
    work(server, clients, steps).await
}

/// One request, or a few about one thing.
enum Step {
    /// Put a product into the catalogue.
    Put(Product),
    /// Add the pieces of a row of that list.
    Add(Arc<str>, StockRow),
    /// Wait until the row of that list for this product is counted.
    Count(Arc<str>, String),
}

impl Step {
    async fn take(&self, connection: &mut Connection, retries: &AtomicU64) -> io::Result<Answer> {
        match self {
            Self::Put(product) => put(connection, product, retries).await,
            Self::Add(list, row) => {
                let body =
                    json!({ "adjustment_id": list, "delta": row.quantity, "reason": "stock list" });
                let path = format!("/v1/inventory/{}/adjustments", segment(&row.sku));
                connection
                    .send_until(&Call::post(path, &body), GIVE_UP, retries)
                    .await
            }
            Self::Count(list, sku) => {
                let path = format!(
                    "/v1/inventory/{}/adjustments/{}",
                    segment(sku),
                    segment(list)
                );
                counted(connection, &Call::get(path), retries).await
            }
        }
    }
}

async fn put(
    connection: &mut Connection,
    product: &Product,
    retries: &AtomicU64,
) -> io::Result<Answer> {
    let body = json!({
        "sku": product.sku,
        "name": product.name,
        "category": product.category.as_deref().filter(|text| !text.is_empty()),
        "price": product.price_cents,
        "currency": CURRENCY,
    });
    let answer = connection
        .send_until(&Call::post("/v1/products", &body), GIVE_UP, retries)
        .await?;
    if answer.status != 409 {
        return Ok(answer);
    }
    let call = Call::put(format!("/v1/products/{}", segment(&product.sku)), &body);
    connection.send_until(&call, GIVE_UP, retries).await
}

/// Asks until the shop knows how the adjustment ended.
async fn counted(
    connection: &mut Connection,
    call: &Call,
    retries: &AtomicU64,
) -> io::Result<Answer> {
    let started = Instant::now();
    loop {
        let answer = connection.send_until(call, GIVE_UP, retries).await?;
        match answer
            .json::<Adjustment>()
            .unwrap_or_default()
            .status
            .as_str()
        {
            "REFUSED" => return Err(io::Error::other(format!("refused: {}", answer.text()))),
            // Another process may have accepted it, of which this one does not know.
            "PENDING" | "" if started.elapsed() < SETTLE_MAX => {}
            _ => return Ok(answer),
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

#[derive(Default, serde::Deserialize)]
struct Adjustment {
    #[serde(default)]
    status: String,
}

/// Takes all steps over some connections, in no order; the first failure ends it.
async fn work(server: &Server, clients: usize, steps: Vec<Step>) -> Outcome<usize> {
    let steps: Arc<[Step]> = steps.into();
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..clients.clamp(1, steps.len().max(1)) {
        let (steps, next) = (steps.clone(), next.clone());
        let mut connection = server.connection();
        workers.spawn(async move {
            let retries = AtomicU64::new(0);
            while let Some(step) = steps.get(next.fetch_add(1, Ordering::Relaxed)) {
                let answer = step.take(&mut connection, &retries).await;
                let answer = answer.map_err(|e| Failure::at("the shop did not take it", &e))?;
                if !answer.is_success() {
                    let reason = format!("the shop refused: {}", answer.text());
                    return Err(Failure::Failed(reason));
                }
            }
            Ok(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.map_err(|e| Failure::at("a connection was lost", &e))??;
    }
    Ok(steps.len())
}

/// Text as one segment of a path.
fn segment(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baskets::Baskets;

    #[test]
    fn most_products_have_enough_stock_and_a_few_do_not() {
        let sample = Baskets::open(None).expect("built in");
        let stock = stock_for(sample.baskets.iter());
        let wanted = stock_for_all(&sample.baskets);
        let short = stock
            .iter()
            .filter(|row| row.quantity < wanted[&row.sku])
            .count();
        assert!((100..500).contains(&short), "{short} of {}", wanted.len());
    }

    fn stock_for_all(baskets: &[Basket]) -> BTreeMap<String, i64> {
        let mut wanted = BTreeMap::new();
        for line in baskets.iter().flat_map(|basket| &basket.lines) {
            *wanted.entry(line.sku.clone()).or_default() += i64::from(line.quantity);
        }
        wanted
    }

    #[test]
    fn what_stands_in_a_sku_cannot_leave_its_segment() {
        assert_eq!(segment("a/b?c d"), "a%2Fb%3Fc%20d");
    }
}
