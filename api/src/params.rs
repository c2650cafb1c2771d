//! `QueryParams<T>` and `UrlPath<T>`: what stands in the URL, with wrong parameters as problems.

use axum::{
    extract::{FromRequestParts, Path, Query},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use crate::{Problem, ProblemKind};

/// The parameters behind the question mark. What is no `T` becomes a 400.
#[derive(Clone, Copy, Debug)]
pub struct QueryParams<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => {
                Err(Problem::of(ProblemKind::INVALID_PARAMETER).detail(rejection.body_text()))
            }
        }
    }
}

/// The parts of the path that the route names. What is no `T` becomes a 404: nothing is there.
#[derive(Clone, Copy, Debug)]
pub struct UrlPath<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for UrlPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(path)) => Ok(Self(path)),
            Err(_) => Err(Problem::of(ProblemKind::NOT_FOUND)),
        }
    }
}
