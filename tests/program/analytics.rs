//! Reports over the replayed sample, against figures that are computed from the input without the
//! engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    time::{Duration, Instant},
};

use flate2::read::GzDecoder;
use millstream_tests::get;
use serde::Deserialize;
use serde_json::Value as JsonValue;

use crate::shop::{Shop, succeeds};

/// Baskets of the sample that are replayed, spread over the whole quarter.
const EVERY: usize = 4;
/// How long reports may take to be complete.
const COMPLETE_MAX: Duration = Duration::from_secs(120);
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Best sellers that are compared.
const TOP: usize = 100;

#[derive(Deserialize)]
struct Basket {
    ts: i64,
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    sku: String,
    qty: i64,
}

/// The sample: each basket as it is in the file, and read.
fn sample() -> Vec<(String, Basket)> {
    let file = File::open(data("orders.jsonl.gz")).expect("the sample");
    let lines = BufReader::new(GzDecoder::new(file))
        .lines()
        .map(|line| line.expect("a line"));
    let read = |line: String| {
        let basket = serde_json::from_str(&line).expect("a basket");
        (line, basket)
    };
    lines.step_by(EVERY).map(read).collect()
}

fn data(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data")
        .join(name)
}

/// Price of each product.
fn prices() -> BTreeMap<String, i64> {
    #[derive(Deserialize)]
    struct Row {
        sku: String,
        price_cents: i64,
    }
    let file = File::open(data("products.csv.gz")).expect("the catalogue");
    let mut rows = csv::Reader::from_reader(GzDecoder::new(file));
    rows.deserialize()
        .map(|row| row.expect("a row"))
        .map(|r: Row| (r.sku, r.price_cents))
        .collect()
}

/// Year, month and day of a day's number since 1970, by counting.
fn date(mut day: i64) -> String {
    let leap = |y: i64| (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    let mut year = 1970;
    while day >= 365 + i64::from(leap(year)) {
        day -= 365 + i64::from(leap(year));
        year += 1;
    }
    let february = 28 + i64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}", day + 1)
}

/// A time to the hour, as the beginning of its RFC 3339 form.
fn hour(ms: i64) -> String {
    format!(
        "{}T{:02}",
        date(ms.div_euclid(DAY_MS)),
        ms.rem_euclid(DAY_MS) / HOUR_MS
    )
}

/// What the reports must say.
struct Expected {
    /// By day: placed, confirmed, cancelled.
    days: BTreeMap<String, [i64; 3]>,
    /// By hour: revenue and orders.
    hours: BTreeMap<String, (i64, i64)>,
    /// Pieces and revenue by product and hour.
    sold: BTreeMap<i64, BTreeMap<String, (i64, i64)>>,
    confirmed: i64,
    cancelled: i64,
}

impl Expected {
    /// An order is confirmed unless it has a product that is not on the shelf.
    fn of(baskets: &[(String, Basket)], missing: &BTreeSet<String>) -> Self {
        let prices = prices();
        let mut expected = Self {
            days: BTreeMap::new(),
            hours: BTreeMap::new(),
            sold: BTreeMap::new(),
            confirmed: 0,
            cancelled: 0,
        };
        for (_, basket) in baskets {
            let day = expected
                .days
                .entry(date(basket.ts.div_euclid(DAY_MS)))
                .or_default();
            day[0] += 1;
            if basket.lines.iter().any(|line| missing.contains(&line.sku)) {
                day[2] += 1;
                expected.cancelled += 1;
                continue;
            }
            day[1] += 1;
            expected.confirmed += 1;
            let start = basket.ts - basket.ts.rem_euclid(HOUR_MS);
            let revenue = expected.hours.entry(hour(basket.ts)).or_default();
            revenue.1 += 1;
            let sold = expected.sold.entry(start).or_default();
            for line in &basket.lines {
                let amount = prices[&line.sku] * line.qty;
                revenue.0 += amount;
                let product = sold.entry(line.sku.clone()).or_default();
                product.0 += line.qty;
                product.1 += amount;
            }
        }
        expected
    }

    /// The best sellers of the 24 hours before `end`: sku, pieces, revenue.
    fn top(&self, end: i64) -> Vec<(String, i64, i64)> {
        let mut products: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
        for (sku, (pieces, revenue)) in self
            .sold
            .range(end - DAY_MS..end)
            .flat_map(|(_, sold)| sold)
        {
            let product = products.entry(sku).or_default();
            product.0 += pieces;
            product.1 += revenue;
        }
        let mut top: Vec<_> = products
            .into_iter()
            .map(|(sku, (n, r))| (sku.to_owned(), n, r))
            .collect();
        top.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        top.truncate(TOP);
        top
    }
}

/// Asks until a report says what it must, and fails with what it says otherwise.
#[track_caller]
fn reports<T: PartialEq + std::fmt::Debug>(url: &str, read: impl Fn(&JsonValue) -> T, want: &T) {
    let until = Instant::now() + COMPLETE_MAX;
    loop {
        let answer = get(url).expect("an answer");
        assert_eq!(answer.status, 200, "{url}");
        let have = read(&answer.body);
        if have == *want {
            return;
        }
        if Instant::now() > until {
            assert_eq!(have, *want, "{url}");
        }
        std::thread::park_timeout(Duration::from_millis(200));
    }
}

fn items(report: &JsonValue) -> impl Iterator<Item = &JsonValue> {
    report["items"].as_array().expect("items").iter()
}

fn words(value: &JsonValue) -> String {
    value.as_str().expect("text").to_owned()
}

fn number(value: &JsonValue) -> i64 {
    value.as_i64().expect("a number")
}

fn days(report: &JsonValue) -> BTreeMap<String, [i64; 3]> {
    let row = |day: &JsonValue| {
        let counts = ["placed", "confirmed", "cancelled"].map(|count| number(&day[count]));
        (words(&day["day"]), counts)
    };
    items(report).map(row).collect()
}

fn hours(report: &JsonValue) -> BTreeMap<String, (i64, i64)> {
    let row = |row: &JsonValue| {
        assert_eq!(row["currency"], "USD");
        (
            words(&row["hour"])[..13].to_owned(),
            (number(&row["revenue"]), number(&row["orders"])),
        )
    };
    items(report).map(row).collect()
}

fn top(report: &JsonValue) -> Vec<(String, i64, i64)> {
    let row = |row: &JsonValue| {
        (
            words(&row["sku"]),
            number(&row["quantity"]),
            number(&row["revenue"]),
        )
    };
    items(report).map(row).collect()
}

/// Fills the shelves but for a few products, and orders all baskets.
fn replay(shop: &Shop, baskets: &[(String, Basket)], missing: &BTreeSet<String>) {
    let mut stock = BTreeMap::<&str, i64>::new();
    for line in baskets.iter().flat_map(|(_, basket)| &basket.lines) {
        *stock.entry(&line.sku).or_default() += line.qty;
    }
    let list = shop.file("stock.csv");
    let mut file = File::create(&list).expect("a file");
    writeln!(file, "sku,quantity").expect("written");
    for (sku, pieces) in stock.into_iter().filter(|(sku, _)| !missing.contains(*sku)) {
        writeln!(file, "{sku},{pieces}").expect("written");
    }
    let orders = shop.file("orders.jsonl");
    let lines: Vec<&str> = baskets.iter().map(|(line, _)| line.as_str()).collect();
    std::fs::write(&orders, lines.join("\n")).expect("written");

    let url = shop.url();
    let import = |what: &str, file: &Path| {
        succeeds(&["import", what, &file.display().to_string(), "--url", &url])
    };
    import("products", &data("products.csv.gz"));
    import("stock", &list);
    let accepted = import("orders", &orders);
    assert_eq!(accepted, format!("{} orders accepted\n", baskets.len()));
}

#[test]
fn reports_say_what_the_input_says() {
    let baskets = sample();
    // Products of many baskets, so that orders are cancelled on every day.
    let missing: BTreeSet<String> = ["1082185", "981760"].map(str::to_owned).into();
    let expected = Expected::of(&baskets, &missing);
    assert!(
        expected.cancelled > 100 && expected.confirmed > 1_000,
        "the input is worth a test"
    );

    let mut shop = Shop::start(&["--allow-event-time"]);
    replay(&shop, &baskets, &missing);
    let report = |route: &str| format!("{}/v1/analytics/{route}", shop.url());
    let counts = |status: &JsonValue| {
        let count = |name: &str| status["by_status"][name].as_i64().unwrap_or(0);
        [
            count("CONFIRMED"),
            count("CANCELLED"),
            count("PENDING"),
            count("RESERVED"),
        ]
    };
    reports(
        &report("order-status"),
        counts,
        &[expected.confirmed, expected.cancelled, 0, 0],
    );
    reports(&report("orders-per-day"), days, &expected.days);
    reports(&report("revenue-per-hour"), hours, &expected.hours);
    // Each evening, and a night in which a window reaches over two days.
    let first = baskets[0].1.ts.div_euclid(DAY_MS) * DAY_MS;
    for end in (0..90).map(|day| first + day * DAY_MS + (18 + day % 12) * HOUR_MS) {
        // A time within the hour after the end of the window.
        let at = format!("{}:59:59Z", hour(end));
        let url = report(&format!("top-products?at={at}&limit={TOP}"));
        reports(&url, top, &expected.top(end));
    }
    shop.stop_and_verify();
}
