//! One HTTP request over a connection of its own.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value as JsonValue;

/// How long a server may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What a server answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The lines of the head behind the first, in lower case.
    pub head: String,
    /// The body.
    pub text: String,
    /// The body as JSON; null if it is none.
    pub body: JsonValue,
}

/// Asks `http://host:port/path`.
///
/// # Errors
/// When there is no connection, or no answer.
pub fn get(url: &str) -> io::Result<Answer> {
    exchange("GET", url, &[], "")
}

/// Sends JSON to `http://host:port/path`, with more header lines.
///
/// # Errors
/// When there is no connection, or no answer.
pub fn post(url: &str, headers: &[(&str, &str)], body: &JsonValue) -> io::Result<Answer> {
    exchange("POST", url, headers, &body.to_string())
}

fn exchange(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> io::Result<Answer> {
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| io::Error::other("no http address"))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(authority)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let mut request = format!(
        "{method} /{path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    request.push_str(body);
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| io::Error::other("no http answer"))
}

fn parse(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let (first, head) = head.split_once("\r\n")?;
    let status = first.split_whitespace().nth(1)?.parse().ok()?;
    let (text, body) = (
        body.to_owned(),
        serde_json::from_str(body).unwrap_or_default(),
    );
    Some(Answer {
        status,
        head: head.to_lowercase(),
        text,
        body,
    })
}
