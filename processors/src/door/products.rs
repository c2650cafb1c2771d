//! `/v1/products`: the catalogue.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use millstream_api::{JsonBody, Problem, ProblemKind, QueryParams, UrlPath};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{DoorState, RETRY_AFTER, bad_parameter, page_size};
use crate::{
    catalogue::{Listed, ProductCursor, ProductQuery},
    model::{Currency, PRICE_MAX, Product, Sku},
    topics::PRODUCTS,
};

/// The longest name and category, and the longest description, in bytes.
const NAME_BYTES_MAX: usize = 500;
const DESCRIPTION_BYTES_MAX: usize = 10_000;
/// Products of one page.
const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 200;
/// How long a write waits until this process reads it back.
const READ_BACK_MAX: Duration = Duration::from_secs(5);

const NO_SUCH_PRODUCT: ProblemKind = ProblemKind::new(
    "no-such-product",
    StatusCode::NOT_FOUND,
    "There is no such product.",
);
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
            (
                "/description",
                self.description.as_ref(),
                0,
                DESCRIPTION_BYTES_MAX,
            ),
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
    let mut response = shown(&created, StatusCode::CREATED);
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
    Ok(shown(&replaced, StatusCode::OK))
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

/// What was written: the product, or none; and its entity tag, once it is read back.
struct Written {
    product: Option<Product>,
    etag: Option<Arc<str>>,
}

impl DoorState {
    /// Writes what `decide` makes of the present product. One write of a sku at a time in this
    /// process; of two processes that write one sku at the same moment, the later counts.
    async fn write(
        &self,
        sku: &Sku,
        decide: impl FnOnce(Option<&Listed>) -> Result<Option<Product>, Problem>,
    ) -> Result<Written, Problem> {
        if !self.catalogue_feed.is_complete() {
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
        let product = decide(self.catalogue.get(sku).as_deref())?;
        let (partition, offset) = self
            .log
            .append(&PRODUCTS, sku, &product, Box::new(|_| ()))
            .await?;
        // Whoever has written reads it, here at least.
        if !self
            .catalogue_feed
            .wait_for(partition, offset, READ_BACK_MAX)
            .await
        {
            tracing::warn!(%sku, "a product was written and is not read back yet");
        }
        let listed = self
            .catalogue
            .get(sku)
            .filter(|l| Some(&l.product) == product.as_ref());
        Ok(Written {
            product,
            etag: listed.map(|l| l.etag.clone()),
        })
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

fn shown(written: &Written, status: StatusCode) -> Response {
    let product = written.product.as_ref().map(HttpProduct::of);
    let mut response = (status, Json(product)).into_response();
    if let Some(tag) = written
        .etag
        .as_deref()
        .and_then(|tag| HeaderValue::from_str(tag).ok())
    {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// Whether a header lists an entity tag; `None` without the header.
fn names(headers: &HeaderMap, header: HeaderName, tag: &str) -> Option<bool> {
    let mut values = headers.get_all(header).iter().peekable();
    values.peek()?;
    let tags = values
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim);
    Some(
        tags.map(|t| t.strip_prefix("W/").unwrap_or(t))
            .any(|t| t == "*" || t == tag),
    )
}

fn unchanged(headers: &HeaderMap, present: &Listed) -> Result<(), Problem> {
    match names(headers, header::IF_MATCH, &present.etag) {
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
        return Err(match door.catalogue_feed.is_complete() {
            true => Problem::of(NO_SUCH_PRODUCT),
            false => not_loaded(),
        });
    };
    let tag = HeaderValue::from_str(&listed.etag).map_err(Problem::internal)?;
    let tags = [(header::ETAG, tag)];
    match names(&headers, header::IF_NONE_MATCH, &listed.etag) {
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
    if !door.catalogue_feed.is_complete() {
        return Err(not_loaded());
    }
    let limit = page_size(params.limit, PAGE_DEFAULT, PAGE_MAX)?;
    let cursor = params
        .cursor
        .as_deref()
        .map(str::parse::<ProductCursor>)
        .transpose();
    let cursor = cursor.map_err(|_| bad_parameter("this is no cursor"))?;
    let query = ProductQuery {
        words: params.query,
        category: params.category,
        limit,
        cursor,
    };
    let page = door.catalogue.page(&query);
    let items: Vec<_> = page
        .items
        .iter()
        .map(|l| HttpProduct::of(&l.product))
        .collect();
    let mut body = json!({ "items": items });
    if let Some(next) = page.next_cursor {
        body["next_cursor"] = next.to_string().into();
    }
    Ok(Json(body).into_response())
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
