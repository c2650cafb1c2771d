//! What a request for an order says, and everything that can be wrong with it.

use std::{collections::HashMap, time::Duration};

use axum::http::{HeaderMap, HeaderName, StatusCode};
use millstream_api::{Problem, ProblemKind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{
    Currency, CustomerId, LINES_MAX, PlaceOrder, QUANTITY_MAX, RequestedLine, Sku, parse_rfc3339,
};

/// The longest idempotency key, in characters.
pub(super) const KEY_CHARS_MAX: usize = 255;
/// The longest token of a means of payment, in bytes.
const TOKEN_BYTES_MAX: usize = 255;
/// The longest wait that `Prefer` may ask for.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How far in the future an order may be placed: clocks differ a little.
const FUTURE_MS_MAX: i64 = 24 * 3600 * 1000;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PREFER: HeaderName = HeaderName::from_static("prefer");

const NO_KEY: ProblemKind = ProblemKind::new(
    "idempotency-key-required",
    StatusCode::BAD_REQUEST,
    "An order needs the header Idempotency-Key.",
);
const BAD_KEY: ProblemKind = ProblemKind::new(
    "idempotency-key-invalid",
    StatusCode::BAD_REQUEST,
    "The header Idempotency-Key is wrong.",
);
const INVALID_ORDER: ProblemKind = ProblemKind::new(
    "invalid-order",
    StatusCode::UNPROCESSABLE_ENTITY,
    "The order cannot be accepted as it is.",
);

/// The body of `POST /v1/orders`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OrderRequest {
    customer_id: CustomerId,
    #[serde(default)]
    currency: Option<Currency>,
    lines: Vec<LineRequest>,
    payment: PaymentRequest,
    #[serde(default)]
    expected_total: Option<i64>,
    #[serde(default)]
    placed_at: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LineRequest {
    sku: Sku,
    quantity: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PaymentRequest {
    token: String,
}

/// What the checks need to know of the shop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) currency: Currency,
    pub(super) allow_event_time: bool,
    pub(super) now_ms: i64,
}

impl OrderRequest {
    /// The command that the request stands for. Lines of one sku are one line of it.
    pub(super) fn check(self, rules: Rules) -> Result<PlaceOrder, Problem> {
        let mut problem = Problem::of(INVALID_ORDER);
        if self.lines.is_empty() || self.lines.len() > LINES_MAX {
            problem = problem.at("/lines", format!("an order has 1 to {LINES_MAX} lines"));
        }
        let (lines, mut problem) = merge(&self.lines, problem);
        if !is_token(&self.payment.token) {
            let detail =
                format!("a token has 1 to {TOKEN_BYTES_MAX} bytes, none of them a control");
            problem = problem.at("/payment/token", detail);
        }
        if self.expected_total.is_some_and(|total| total < 0) {
            problem = problem.at("/expected_total", "a total is not negative");
        }
        let placed_at = match self.placed_at.as_deref().map(|text| placed_at(text, rules)) {
            None => None,
            Some(Ok(time)) => Some(time),
            Some(Err(detail)) => {
                problem = problem.at("/placed_at", detail);
                None
            }
        };
        if !problem.errors().is_empty() {
            return Err(problem);
        }
        let currency = self.currency.unwrap_or(rules.currency);
        let mut place = PlaceOrder {
            customer_id: self.customer_id,
            currency,
            lines,
            token: self.payment.token.into(),
            expected_total: self.expected_total,
            placed_at: placed_at.unwrap_or(rules.now_ms),
            fingerprint: Uuid::nil(),
        };
        place.fingerprint = fingerprint(&place, placed_at);
        Ok(place)
    }
}

/// Lines of one sku become one, where the first of them stood.
fn merge(lines: &[LineRequest], mut problem: Problem) -> (Vec<RequestedLine>, Problem) {
    let mut merged: Vec<RequestedLine> = Vec::new();
    let mut places: HashMap<&Sku, usize> = HashMap::new();
    let bounds = format!("a quantity is 1 to {QUANTITY_MAX}");
    for (index, line) in lines.iter().enumerate() {
        let pointer = || format!("/lines/{index}/quantity");
        let Some(quantity) = quantity(line.quantity) else {
            problem = problem.at(pointer(), bounds.clone());
            continue;
        };
        let place = *places.entry(&line.sku).or_insert(merged.len());
        match merged.get_mut(place) {
            None => merged.push(RequestedLine {
                sku: line.sku.clone(),
                quantity,
            }),
            Some(first) => match quantity.checked_add(first.quantity) {
                Some(sum) if sum <= QUANTITY_MAX => first.quantity = sum,
                Some(_) | None => {
                    let detail = format!("{bounds}, all lines with one sku together");
                    problem = problem.at(pointer(), detail);
                }
            },
        }
    }
    (merged, problem)
}

fn quantity(asked: i64) -> Option<u32> {
    u32::try_from(asked)
        .ok()
        .filter(|n| (1..=QUANTITY_MAX).contains(n))
}

fn is_token(token: &str) -> bool {
    !token.is_empty() && token.len() <= TOKEN_BYTES_MAX && !token.chars().any(char::is_control)
}

fn placed_at(text: &str, rules: Rules) -> Result<i64, &'static str> {
    if !rules.allow_event_time {
        return Err(
            "unknown field `placed_at`: this shop takes the time at which an order arrives",
        );
    }
    match parse_rfc3339(text) {
        None => Err("a time is RFC 3339 text, as 2017-01-31T12:00:00Z"),
        Some(ms) if ms < 0 => Err("a time before 1970"),
        Some(ms) if ms > rules.now_ms.saturating_add(FUTURE_MS_MAX) => Err("a time in the future"),
        Some(ms) => Ok(ms),
    }
}

/// Tells one request from another with the same key. What the shop fills in is left out.
fn fingerprint(place: &PlaceOrder, placed_at: Option<i64>) -> Uuid {
    /// Namespace of the fingerprints.
    const NAMESPACE: Uuid = Uuid::from_u128(0x2f0c_97a1_4be6_5d0d_8f7e_61c3_90d4_5a1b);

    #[derive(Serialize)]
    struct Canonical<'a> {
        customer_id: &'a str,
        currency: Currency,
        lines: &'a [RequestedLine],
        token: &'a str,
        expected_total: Option<i64>,
        placed_at: Option<i64>,
    }
    let canonical = Canonical {
        customer_id: &place.customer_id,
        currency: place.currency,
        lines: &place.lines,
        token: &place.token,
        expected_total: place.expected_total,
        placed_at,
    };
    let bytes = serde_json::to_vec(&canonical).expect("text and numbers have a JSON form");
    Uuid::new_v5(&NAMESPACE, &bytes)
}

/// The idempotency key of a request: the header's text, in quotes or not.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<String, Problem> {
    let bad = |detail: String| Problem::of(BAD_KEY).detail(detail);
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let value = values.next().ok_or(Problem::of(NO_KEY))?;
    if values.next().is_some() {
        return Err(bad("the header stands there twice".to_owned()));
    }
    let text = std::str::from_utf8(value.as_bytes())
        .map_err(|_| bad("a key is text".to_owned()))?
        .trim();
    let key = text
        .strip_prefix('"')
        .and_then(|t| t.strip_suffix('"'))
        .unwrap_or(text);
    if key.is_empty() {
        return Err(Problem::of(NO_KEY));
    }
    if key.chars().count() > KEY_CHARS_MAX || key.chars().any(char::is_control) {
        let detail =
            format!("a key has at most {KEY_CHARS_MAX} characters, none of them a control");
        return Err(bad(detail));
    }
    Ok(key.to_owned())
}

/// How long `Prefer: wait=S` asks to wait for a final order.
pub(super) fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    let values = headers
        .get_all(PREFER)
        .iter()
        .filter_map(|v| v.to_str().ok());
    let mut preferences = values.flat_map(|v| v.split([',', ';'])).map(str::trim);
    preferences.find_map(|preference| {
        let (name, seconds) = preference.split_once('=')?;
        if !name.trim().eq_ignore_ascii_case("wait") {
            return None;
        }
        let seconds: u64 = seconds.trim().trim_matches('"').parse().ok()?;
        Some(Duration::from_secs(seconds).min(WAIT_MAX))
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules {
        currency: Currency::USD,
        allow_event_time: true,
        now_ms: 1_700_000_000_000,
    };

    fn request(json: serde_json::Value) -> OrderRequest {
        serde_json::from_value(json).expect("a request")
    }

    fn with_lines(lines: serde_json::Value) -> OrderRequest {
        request(serde_json::json!({
            "customer_id": "ada", "lines": lines, "payment": {"token": "tok"},
        }))
    }

    fn line(sku: &str, quantity: i64) -> serde_json::Value {
        serde_json::json!({ "sku": sku, "quantity": quantity })
    }

    #[track_caller]
    fn refused(request: OrderRequest, pointers: &[&str]) {
        let problem = request.check(RULES).expect_err("must be refused");
        assert_eq!(problem.kind().status(), 422);
        let found: Vec<&str> = problem
            .errors()
            .iter()
            .map(|e| e.pointer.as_str())
            .collect();
        assert_eq!(found, pointers);
    }

    #[test]
    fn lines_of_one_sku_are_one_line() {
        let lines = serde_json::json!([line("a", 2), line("b", 1), line("a", 3)]);
        let place = with_lines(lines).check(RULES).expect("fine");
        let lines: Vec<(&str, u32)> = place.lines.iter().map(|l| (&*l.sku, l.quantity)).collect();
        assert_eq!(lines, [("a", 5), ("b", 1)]);
    }

    #[test]
    fn quantities_and_lines_have_bounds() {
        use serde_json::json;
        refused(with_lines(json!([])), &["/lines"]);
        let many: Vec<_> = (0..=LINES_MAX).map(|i| line(&format!("s{i}"), 1)).collect();
        refused(with_lines(json!(many)), &["/lines"]);
        refused(
            with_lines(json!([
                line("a", 0),
                line("b", 1),
                line("c", -1),
                line("d", 10_001)
            ])),
            &[
                "/lines/0/quantity",
                "/lines/2/quantity",
                "/lines/3/quantity",
            ],
        );
        refused(
            with_lines(json!([line("a", 6_000), line("a", 6_000)])),
            &["/lines/1/quantity"],
        );
        assert!(with_lines(json!([line("a", 10_000)])).check(RULES).is_ok());
    }

    #[test]
    fn other_fields_are_checked_too() {
        let order = |field: &str, value: serde_json::Value| {
            let mut order = serde_json::json!({
                "customer_id": "ada", "lines": [line("a", 1)], "payment": {"token": "tok"},
            });
            order[field] = value;
            request(order)
        };
        refused(
            order("payment", serde_json::json!({"token": ""})),
            &["/payment/token"],
        );
        refused(order("expected_total", (-1).into()), &["/expected_total"]);
        for time in ["yesterday", "1960-01-01T00:00:00Z", "2100-01-01T00:00:00Z"] {
            refused(order("placed_at", time.into()), &["/placed_at"]);
        }
        let place = order("placed_at", "2017-01-01T00:00:00Z".into())
            .check(RULES)
            .expect("fine");
        assert_eq!(place.placed_at, 1_483_228_800_000);
        let rules = Rules {
            allow_event_time: false,
            ..RULES
        };
        let refused = order("placed_at", "2017-01-01T00:00:00Z".into()).check(rules);
        assert_eq!(
            refused.expect_err("unknown here").errors()[0].pointer,
            "/placed_at"
        );
    }

    #[test]
    fn a_fingerprint_is_of_what_the_client_said() {
        let print = |lines: serde_json::Value, now_ms: i64| {
            with_lines(lines)
                .check(Rules { now_ms, ..RULES })
                .expect("fine")
                .fingerprint
        };
        let one = print(serde_json::json!([line("a", 2)]), 1);
        assert_eq!(
            one,
            print(serde_json::json!([line("a", 1), line("a", 1)]), 2)
        );
        assert_ne!(one, print(serde_json::json!([line("a", 3)]), 1));
    }

    #[test]
    fn keys_come_quoted_or_not() {
        let key = |value: &str| {
            let value = HeaderValue::from_str(value).expect("a header");
            idempotency_key(&HeaderMap::from_iter([(IDEMPOTENCY_KEY, value)]))
        };
        assert_eq!(key("\"a-1\"").as_deref(), Ok("a-1"));
        assert_eq!(key("a-1").as_deref(), Ok("a-1"));
        assert!(key(&"k".repeat(255)).is_ok());
        for bad in ["", "\"\"", "  ", &"k".repeat(256)] {
            assert_eq!(key(bad).expect_err("refused").kind().status(), 400, "{bad}");
        }
        assert!(idempotency_key(&HeaderMap::new()).is_err());
    }

    #[test]
    fn a_wait_is_bounded_and_other_preferences_are_ignored() {
        for (value, seconds) in [
            ("wait=5", Some(5)),
            ("respond-async, wait=5", Some(5)),
            ("Wait = 90", Some(30)),
            ("wait=soon", None),
            ("return=minimal", None),
            ("wait=-1", None),
        ] {
            let value = HeaderValue::from_static(value);
            let wait = preferred_wait(&HeaderMap::from_iter([(PREFER, value)]));
            assert_eq!(wait.map(|w| w.as_secs()), seconds);
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_what_the_saga_takes(
            lines in proptest::collection::vec(("[ab]{1,2}", -2i64..11_000), 0..5)
        ) {
            let lines: Vec<_> = lines.iter().map(|(sku, n)| line(sku, *n)).collect();
            if let Ok(place) = with_lines(serde_json::json!(lines)).check(RULES) {
                let command = crate::model::OrderCommand::Place(place);
                let json = serde_json::to_vec(&command).expect("encodes");
                prop_assert!(serde_json::from_slice::<crate::model::OrderCommand>(&json).is_ok());
            }
        }
    }
}
