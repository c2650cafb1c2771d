//! `Peer`: asks another instance, once.

use std::{sync::OnceLock, time::Duration};

use axum::http::{HeaderMap, StatusCode};
use bytes::{Bytes, BytesMut};
use reqwest::{Client, Url, redirect::Policy};
use tracing::debug;

use crate::{Problem, ProblemKind};

/// The header that a forwarded request carries. Who gets it answers or refuses, and asks nobody
/// else.
pub const HOP: &str = "millstream-hop";
/// The largest answer that is taken from another instance, in bytes.
pub const PEER_BYTES_MAX: usize = 16 << 20;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);
/// Connections to one instance that are kept open while nothing is asked.
const IDLE_CONNECTIONS_MAX: usize = 16;
/// When a client may try again after an instance did not answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What another instance answered.
#[derive(Clone, Debug)]
pub struct PeerAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Asks other instances of the application. Clones share their connections.
///
/// Endpoints come from the application's own list of members, never from a request.
#[derive(Clone, Debug)]
pub struct Peer(Client);

impl Peer {
    /// The one client of this process.
    pub fn new() -> Self {
        static CLIENT: OnceLock<Client> = OnceLock::new();
        let client = CLIENT.get_or_init(|| {
            let builder = Client::builder()
                .no_proxy()
                .redirect(Policy::none())
                .connect_timeout(CONNECT_TIME_MAX)
                .timeout(ANSWER_TIME_MAX)
                .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX);
            builder
                .build()
                .expect("a client without TLS needs nothing of the system")
        });
        Self(client.clone())
    }

    /// Asks the instance at `endpoint` (`host:port`) for the path of these segments.
    ///
    /// # Errors
    /// A problem with status 503 when it does not answer in time.
    pub async fn get(
        &self,
        endpoint: &str,
        segments: &[&str],
        params: &[(&str, &str)],
    ) -> Result<PeerAnswer, Problem> {
        let url = url(endpoint, segments, params)
            .ok_or_else(|| Problem::internal(format_args!("no endpoint. endpoint=`{endpoint}`")))?;
        self.fetch(url).await.map_err(|error| {
            debug!(endpoint, %error, "another instance did not answer");
            Problem::of(ProblemKind::UNAVAILABLE)
                .detail("the instance that holds this does not answer")
                .retry_after(RETRY_AFTER)
        })
    }

    async fn fetch(
        &self,
        url: Url,
    ) -> Result<PeerAnswer, Box<dyn std::error::Error + Send + Sync>> {
        let mut response = self.0.get(url).header(HOP, "1").send().await?;
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > PEER_BYTES_MAX {
                return Err("the answer is too large".into());
            }
            body.extend_from_slice(&chunk);
        }
        let headers = response.headers().clone();
        Ok(PeerAnswer {
            status: response.status(),
            headers,
            body: body.freeze(),
        })
    }
}

impl Default for Peer {
    fn default() -> Self {
        Self::new()
    }
}

fn url(endpoint: &str, segments: &[&str], params: &[(&str, &str)]) -> Option<Url> {
    let mut url = Url::parse(&format!("http://{endpoint}")).ok()?;
    url.path_segments_mut()
        .ok()?
        .pop_if_empty()
        .extend(segments);
    if !params.is_empty() {
        url.query_pairs_mut().extend_pairs(params);
    }
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_a_key_cannot_leave_its_segment() {
        let url = url(
            "127.0.0.1:8081",
            &["stores", "s", "keys", "a/b?c#d e"],
            &[("from", "x&y")],
        );
        assert_eq!(
            url.expect("an endpoint").as_str(),
            "http://127.0.0.1:8081/stores/s/keys/a%2Fb%3Fc%23d%20e?from=x%26y"
        );
    }
}
