//! `/v1/products`: the catalogue.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use millstream_api::{
    JsonBody, Problem, ProblemKind, QueryParams, UrlPath, decode_cursor, encode_cursor,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{DoorState, RETRY_AFTER, bad_parameter, catalogue::Listed, page_size};
use crate::{
    model::{Currency, PRICE_MAX, Product, Sku},
    topics::PRODUCTS,
};

/// The longest name and category, and the longest description, in bytes.
const NAME_BYTES_MAX: usize = 500;
const DESCRIPTION_BYTES_MAX: usize = 10_000;
/// Products of one page.
const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 200;
/// How deep a search can be paged into.
const SEARCH_DEPTH_MAX: usize = 10_000;
/// How long a write waits until this process reads it back.
const READ_BACK_MAX: Duration = Duration::from_secs(5);

const NO_SUCH_PRODUCT: ProblemKind =
    ProblemKind::new("no-such-product", StatusCode::NOT_FOUND, "There is no such product.");
const DUPLICATE: ProblemKind = ProblemKind::new(
    "duplicate-product",
    StatusCode::CONFLICT,
    "There is a product with that sku already.",
);
const INVALID_PRODUCT: ProblemKind = ProblemKind::new(
    "invalid-product",
    StatusCode::UNPROCESSABLE_ENTITY,
    "The product cannot be accepted as it is.",
);
const CHANGED: ProblemKind = ProblemKind::new(
    "product-changed",
    StatusCode::PRECONDITION_FAILED,
    "The product is not what it was when you read it.",
);

/// A body that describes a product.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProductRequest {
    sku: Option<Sku>,
    name: String,
    category: Option<String>,
    price: i64,
    currency: Option<Currency>,
    description: Option<String>,
}

#[derive(Serialize)]
struct HttpProduct<'a> {
    sku: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<&'a str>,
    price: i64,
    currency: Currency,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
}

impl<'a> HttpProduct<'a> {
    fn of(product: &'a Product) -> Self {
        Self {
            sku: &product.sku,
            name: &product.name,
            category: product.category.as_deref(),
            price: product.price,
            currency: product.currency,
            description: product.description.as_deref(),
        }
    }
}

impl ProductRequest {
    /// The product that the request describes; `at` is the sku in the path, if there is one.
    fn check(self, at: Option<&Sku>, currency: Currency) -> Result<Product, Problem> {
        let mut problem = Problem::of(INVALID_PRODUCT);
        let sku = match (self.sku, at) {
            (Some(sku), Some(at)) if sku != *at => {
                problem = problem.at("/sku", "another sku than the path's");
                Some(sku)
            }
            (Some(sku), _) => Some(sku),
            (None, at) => at.cloned(),
        };
        if sku.is_none() {
            problem = problem.at("/sku", "missing field `sku`");
        }
        let text_bounds = [
            ("/name", Some(&self.name), 1, NAME_BYTES_MAX),
            ("/category", self.category.as_ref(), 1, NAME_BYTES_MAX),
            ("/description", self.description.as_ref(), 0, DESCRIPTION_BYTES_MAX),
        ];
        for (pointer, text, min, max) in text_bounds {
            if text.is_some_and(|t| t.trim().len() < min || t.len() > max) {
                problem = problem.at(pointer, format!("a text here has {min} to {max} bytes"));
            }
        }
        if !(0..=PRICE_MAX).contains(&self.price) {
            problem = problem.at("/price", format!("a price is 0 to {PRICE_MAX} minor units"));
        }
        match sku {
            Some(sku) if problem.errors().is_empty() => Ok(Product {
                sku,
                name: self.name.into(),
                category: self.category.map(Into::into),
                price: self.price,
                currency: self.currency.unwrap_or(currency),
                description: self.description.map(Into::into),
            }),
            Some(_) | None => Err(problem),
        }
    }
}

pub(super) async fn create(
    State(door): State<Arc<DoorState>>,
    JsonBody(request): JsonBody<ProductRequest>,
) -> Result<Response, Problem> {
    let product = request.check(None, door.config.currency)?;
    let sku = product.sku.clone();
    let location = format!("/v1/products/{}", path_segment(&sku));
    let created = door
        .write(&sku, |present| match present {
            Some(_) => Err(Problem::of(DUPLICATE)),
            None => Ok(Some(product)),
        })
        .await?;
    let mut response = shown(&created, StatusCode::CREATED)?;
    let location = HeaderValue::from_str(&location).map_err(Problem::internal)?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

pub(super) async fn replace(
    State(door): State<Arc<DoorState>>,
    UrlPath(sku): UrlPath<String>,
    headers: HeaderMap,
    JsonBody(request): JsonBody<ProductRequest>,
) -> Result<Response, Problem> {
    let sku = parse_sku(&sku)?;
    let product = request.check(Some(&sku), door.config.currency)?;
    let replaced = door
        .write(&sku, |present| {
            let present = present.ok_or(Problem::of(NO_SUCH_PRODUCT))?;
            unchanged(&headers, present)?;
            Ok(Some(product))
        })
        .await?;
    shown(&replaced, StatusCode::OK)
}

pub(super) async fn remove(
    State(door): State<Arc<DoorState>>,
    UrlPath(sku): UrlPath<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let sku = parse_sku(&sku)?;
    door.write(&sku, |present| {
        let present = present.ok_or(Problem::of(NO_SUCH_PRODUCT))?;
        unchanged(&headers, present)?;
        Ok(None)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What was written: the product, or none, and where.
struct Written {
    product: Option<Product>,
    partition: i32,
    offset: i64,
}

impl DoorState {
    /// Writes what `decide` makes of the present product. One write of a sku at a time in this process; of two
    /// processes that write one sku at the same moment, the later counts.
    async fn write(
        &self,
        sku: &Sku,
        decide: impl FnOnce(Option<&Listed>) -> Result<Option<Product>, Problem>,
    ) -> Result<Written, Problem> {
        if !self.catalogue.is_loaded() {
            return Err(not_loaded());
        }
        if !self.writing.lock().await.insert(sku.clone()) {
            let detail = "another request is writing this product";
            return Err(Problem::of(DUPLICATE).detail(detail));
        }
        let written = self.write_alone(sku, decide).await;
        self.writing.lock().await.remove(sku);
        written
    }

    async fn write_alone(
        &self,
        sku: &Sku,
        decide: impl FnOnce(Option<&Listed>) -> Result<Option<Product>, Problem>,
    ) -> Result<Written, Problem> {
        let product = decide(self.catalogue.get(sku).as_ref())?;
        let (partition, offset) =
            self.log.append(&PRODUCTS, sku, &product, Box::new(|_| ())).await?;
        // Whoever has written reads it, here at least.
        let read_back = self.catalogue.reached(partition, offset);
        if tokio::time::timeout(READ_BACK_MAX, read_back).await.is_err() {
            tracing::warn!(%sku, "a product was written and is not read back yet");
        }
        Ok(Written { product, partition, offset })
    }
}

fn not_loaded() -> Problem {
    Problem::of(ProblemKind::UNAVAILABLE)
        .detail("the catalogue is being read")
        .retry_after(RETRY_AFTER)
}

fn parse_sku(text: &str) -> Result<Sku, Problem> {
    text.parse().map_err(|_| Problem::of(NO_SUCH_PRODUCT))
}

fn shown(written: &Written, status: StatusCode) -> Result<Response, Problem> {
    let product = written.product.as_ref().map(HttpProduct::of);
    let tag = etag(written.partition, written.offset)?;
    Ok((status, [(header::ETAG, tag)], Json(product)).into_response())
}

/// The record that a product comes from names its version.
fn etag(partition: i32, offset: i64) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(&format!("\"{partition}-{offset}\"")).map_err(Problem::internal)
}

fn names(headers: &HeaderMap, header: HeaderName, tag: &HeaderValue) -> Option<bool> {
    let mut values = headers.get_all(header).iter().peekable();
    values.peek()?;
    let tags = values.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim);
    Some(tags.map(|t| t.strip_prefix("W/").unwrap_or(t)).any(|t| t == "*" || t == *tag))
}

fn unchanged(headers: &HeaderMap, present: &Listed) -> Result<(), Problem> {
    let tag = etag(present.partition, present.offset)?;
    match names(headers, header::IF_MATCH, &tag) {
        Some(false) => Err(Problem::of(CHANGED)),
        Some(true) | None => Ok(()),
    }
}

pub(super) async fn one(
    State(door): State<Arc<DoorState>>,
    UrlPath(sku): UrlPath<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Some(listed) = door.catalogue.get(&parse_sku(&sku)?) else {
        return Err(match door.catalogue.is_loaded() {
            true => Problem::of(NO_SUCH_PRODUCT),
            false => not_loaded(),
        });
    };
    let tag = etag(listed.partition, listed.offset)?;
    let tags = [(header::ETAG, tag.clone())];
    match names(&headers, header::IF_NONE_MATCH, &tag) {
        Some(true) => Ok((StatusCode::NOT_MODIFIED, tags).into_response()),
        Some(false) | None => Ok((tags, Json(HttpProduct::of(&listed.product))).into_response()),
    }
}

#[derive(Deserialize)]
pub(super) struct ListParams {
    query: Option<String>,
    category: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// Without a query by sku, with one the best first.
pub(super) async fn list(
    State(door): State<Arc<DoorState>>,
    QueryParams(params): QueryParams<ListParams>,
) -> Result<Response, Problem> {
    if !door.catalogue.is_loaded() {
        return Err(not_loaded());
    }
    let limit = page_size(params.limit, PAGE_DEFAULT, PAGE_MAX)?;
    let wrong = || bad_parameter("this is no cursor");
    let cursor = match &params.cursor {
        Some(text) => {
            let bytes = decode_cursor(text).ok_or_else(wrong)?;
            Some(String::from_utf8(bytes).map_err(|_| wrong())?)
        }
        None => None,
    };
    let query = params.query.as_deref().map(str::trim).filter(|q| !q.is_empty());
    let (found, next) = match query {
        None => {
            let after = cursor.map(|text| text.parse::<Sku>()).transpose().map_err(|_| wrong())?;
            let listed = |limit| {
                let index = door.catalogue.read();
                index.list(params.category.as_deref(), after.as_ref(), limit)
            };
            page(listed(limit + 1), limit, |last| last.product.sku.to_string())
        }
        Some(query) => {
            let skip = cursor.map(|text| text.parse::<usize>()).transpose().map_err(|_| wrong())?;
            let skip = skip.unwrap_or(0).min(SEARCH_DEPTH_MAX);
            let index = door.catalogue.read();
            let found = index.search(query, params.category.as_deref(), skip, limit + 1);
            page(found, limit, |_| (skip + limit).to_string())
        }
    };
    let items: Vec<_> = found.iter().map(|l| HttpProduct::of(&l.product)).collect();
    let mut body = json!({ "items": items });
    if let Some(next) = next {
        body["next_cursor"] = encode_cursor(next.as_bytes()).into();
    }
    Ok(Json(body).into_response())
}

/// Cuts off the one that was read too many, and says where to go on if there was one.
fn page(
    mut found: Vec<Listed>,
    limit: usize,
    next: impl FnOnce(&Listed) -> String,
) -> (Vec<Listed>, Option<String>) {
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(next);
    (found, next)
}

/// Text as a part of a path: all but letters, digits and a few others as `%XX`.
pub(super) fn path_segment(text: &str) -> String {
    let mut path = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                path.push(char::from(byte));
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}
