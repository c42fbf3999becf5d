//! Fencing in an HTTP service: a middleware turns away what carries a lower token than it has seen, or none.
//!
//! The service is called in this process. A real one keeps the highest token in its database: in memory it is
//! forgotten at a restart, and each instance has one of its own.
//!
//! ```text
//! cargo run --example fencing_http
//! ./scripts/with-redis 5 cargo run --example fencing_http
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

mod shared;

use std::{error::Error, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::put,
};
use redlatch::FencingToken;
use shared::{Log, manager, nodes};
use tokio::{sync::Mutex, time::sleep};
use tower::ServiceExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let nodes = nodes(1)?;
    let log = Log::start("A paused holder meets a fenced service", &nodes);
    let manager = manager(nodes)?;
    let key = format!("fencing_http:{}", std::process::id());
    let service = Router::new()
        .route("/report", put(async || "written"))
        .layer(from_fn_with_state(Fence::default(), fenced));

    let first = manager.lock(&key).ttl(Duration::from_millis(500)).acquire().await?;
    let answer = send(&service, Some(first.fencing_token())).await?;
    log.say("holder 1", format!("PUT /report: {answer}, and falls asleep"));

    let second = manager.lock(&key).acquire().await?;
    let answer = send(&service, Some(second.fencing_token())).await?;
    log.say("holder 2", format!("gets the expired lock, PUT /report: {answer}"));

    sleep(Duration::from_millis(200)).await;
    let late = send(&service, Some(first.fencing_token())).await?;
    log.say("holder 1", format!("wakes up, PUT /report: {late}"));
    let bare = send(&service, None).await?;
    log.say("stranger", format!("without a token, PUT /report: {bare}"));
    if late.is_success() || bare.is_success() {
        return Err("the service took a stale write".into());
    }

    drop(first);
    second.release().await?;
    manager.close().await;
    Ok(())
}

/// The highest token seen.
type Fence = Arc<Mutex<u64>>;

async fn fenced(State(fence): State<Fence>, request: Request, next: Next) -> Response {
    let header = request.headers().get("fencing-token").and_then(|value| value.to_str().ok());
    let Some(token) = header.and_then(|value| value.parse().ok()) else {
        return (StatusCode::PRECONDITION_REQUIRED, "a fencing token is missing").into_response();
    };
    // Locked until the write is done: comparing and writing are one step.
    let mut highest = fence.lock().await;
    if token < *highest {
        return (StatusCode::PRECONDITION_FAILED, "a later holder was here").into_response();
    }
    *highest = token;
    next.run(request).await
}

async fn send(service: &Router, token: Option<FencingToken>) -> Result<StatusCode, Box<dyn Error>> {
    let mut request = Request::put("/report");
    if let Some(token) = token {
        request = request.header("Fencing-Token", token.get());
    }
    Ok(service.clone().oneshot(request.body(Body::empty())?).await?.status())
}
