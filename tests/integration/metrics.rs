//! What is recorded through the metrics facade.

use std::{collections::BTreeSet, future::Future};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use redlatch::{LockManager, Retry};

use crate::support::{Server, Site, eventually, millis, secs, within};

/// What was recorded, as text.
struct Scrape(PrometheusHandle);

impl Scrape {
    /// The value of `redlatch_{series}`, zero if nothing was recorded.
    fn value(&self, series: &str) -> f64 {
        let (text, name) = (self.0.render(), format!("redlatch_{series} "));
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    fn is(&self, series: &str, count: u32) {
        let value = self.value(series);
        assert!((value - f64::from(count)).abs() < 1e-9, "{series}: {}", self.0.render());
    }
}

/// Runs a test with a recorder of its own: everything happens on this thread.
fn recorded<F: Future<Output = ()>>(test: impl FnOnce(Scrape) -> F) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let scrape = Scrape(recorder.handle());
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(scrape));
    });
}

#[test]
fn acquires_count_by_their_outcome_with_their_attempts() {
    recorded(async |scrape| {
        let site = Site::memory(3);
        let manager = site.manager();
        let guard = manager.lock("k").await.unwrap();
        manager.lock("k").try_acquire().await.unwrap_err();
        let retry = Retry::jittered(millis(1), millis(1)).max_retries(2);
        manager.lock("k").retry(retry).acquire().await.unwrap_err();
        drop(tokio::time::timeout(millis(20), manager.lock("k").acquire()).await);
        guard.release().await.unwrap();
        manager.close().await;
        manager.lock("k").acquire().await.unwrap_err();
        manager.lock("").acquire().await.unwrap_err();
        let outcomes =
            [("acquired", 1), ("contended", 2), ("cancelled", 1), ("closed", 1), ("refused", 1)];
        for (outcome, count) in outcomes {
            scrape.is(&format!("acquire_seconds_count{{outcome=\"{outcome}\"}}"), count);
        }
        scrape.is("acquire_attempts_sum{outcome=\"acquired\"}", 1);
        scrape.is("acquire_attempts_sum{outcome=\"contended\"}", 4);
        assert!(scrape.value("acquire_seconds_sum{outcome=\"cancelled\"}") >= 0.02);
    });
}

#[test]
fn guards_and_waiters_are_counted_while_they_are_there() {
    recorded(async |scrape| {
        let manager = LockManager::in_memory();
        let guard = manager.lock("k").await.unwrap();
        let others = [manager.lock("a").await.unwrap(), manager.lock("b").await.unwrap()];
        let waiting = tokio::spawn(manager.lock("k").acquire());
        eventually("it waits", async || scrape.value("waiters") > 0.5).await;
        scrape.is("guards", 3);
        scrape.is("waiters", 1);
        let [released, forgotten] = others;
        released.release().await.unwrap();
        forgotten.forget();
        drop(guard);
        drop(within(waiting).await.unwrap().unwrap());
        scrape.is("guards", 0);
        scrape.is("waiters", 0);
        scrape.is("hold_seconds_count", 4);
    });
}

#[test]
fn a_loss_counts_once_with_its_reason() {
    recorded(async |scrape| {
        let manager = Site::memory(1).builder().release_timeout(millis(20)).build().unwrap();
        let guard = manager.lock("k").ttl(millis(20)).await.unwrap();
        within(guard.lost()).await;
        within(guard.lost()).await;
        drop(guard);
        let kept = manager.lock("kept").ttl(secs(60)).await.unwrap();
        drop(manager.lock("dropped").ttl(secs(60)).await.unwrap());
        manager.close().await;
        assert!(!kept.is_valid());
        scrape.is("losses_total{reason=\"expired\"}", 1);
        scrape.is("losses_total{reason=\"closed\"}", 1);
        scrape.is("losses_total{reason=\"taken\"}", 0);
    });
}

#[test]
fn renewals_leave_their_margin_and_nodes_their_round_trips() {
    recorded(async |scrape| {
        let site = Site::servers(3);
        let request = site.manager().lock("k").ttl(secs(600));
        let guard = request.auto_renew_every(millis(20)).await.unwrap();
        eventually("it is renewed", async || scrape.value("renewal_margin_seconds_count") > 1.5)
            .await;
        assert!(scrape.value("renewal_margin_seconds_sum") > 600.0);
        guard.release().await.unwrap();
        for server in site.all() {
            let series = format!("node_seconds_count{{node=\"{}\"}}", server.name());
            assert!(scrape.value(&series) > 1.5, "{series}");
        }
        scrape.is("renewal_failures_total", 0);
    });
}

#[test]
fn failures_are_counted() {
    recorded(async |scrape| {
        let site = Site::servers(1);
        let builder = site.builder().node_timeout(millis(100)).release_timeout(millis(150));
        let manager = builder.build().unwrap();
        let request = manager.lock("k").ttl(secs(600));
        let guard = request.auto_renew_every(millis(50)).await.unwrap();
        site.all().iter().for_each(Server::pause);
        eventually("a renewal fails", async || scrape.value("renewal_failures_total") > 0.5).await;
        assert!(guard.release().await.unwrap_err().is_unavailable());
        eventually("the release fails", async || scrape.value("release_failures_total") > 0.5)
            .await;
        let name = site.all()[0].name();
        assert!(scrape.value(&format!("node_failures_total{{node=\"{name}\"}}")) > 0.5);
        let outage = manager.lock("k").try_acquire().await.unwrap_err();
        assert!(outage.is_unavailable());
        scrape.is("acquire_seconds_count{outcome=\"unavailable\"}", 1);
        site.all().iter().for_each(Server::resume);
    });
}

#[test]
fn a_label_is_on_every_series_that_is_about_locks() {
    recorded(async |scrape| {
        let site = Site::servers(1);
        let builder = site.builder().node_timeout(millis(100)).release_timeout(millis(150));
        let manager = builder.build().unwrap();
        let request = |key: &str| manager.lock(key).ttl(secs(600)).label("nightly");
        let guard = request("k").auto_renew_every(millis(50)).await.unwrap();
        let set = manager.lock_all(["a"]).ttl(secs(600)).label("nightly").await.unwrap();
        request("k").try_acquire().await.unwrap_err();
        request("").await.unwrap_err();
        let labelled = |name: &str| scrape.value(&format!("{name}{{label=\"nightly\"}}"));
        eventually("it is renewed", async || labelled("renewal_margin_seconds_count") > 0.5).await;
        site.all().iter().for_each(Server::pause);
        eventually("a renewal fails", async || labelled("renewal_failures_total") > 0.5).await;
        assert!(guard.release().await.unwrap_err().is_unavailable());
        eventually("the release fails", async || labelled("release_failures_total") > 0.5).await;
        manager.close().await;
        drop(set);
        let text = scrape.0.render();
        let is_ours = |line: &&str| line.starts_with("redlatch_") && !line.contains("_node_");
        let ours: Vec<_> = text.lines().filter(is_ours).collect();
        assert!(ours.iter().all(|line| line.contains("label=\"nightly\"")), "{ours:#?}");
        let named =
            ["acquire_seconds", "acquire_attempts", "hold_seconds", "renewal_margin_seconds"];
        let counted = ["renewal_failures", "losses", "release_failures", "guards", "waiters"];
        for name in named.into_iter().chain(counted) {
            assert!(ours.iter().any(|line| line[9..].starts_with(name)), "{name}: {ours:#?}");
        }
        site.all().iter().for_each(Server::resume);
    });
}

/// The README's table lists every name that is recorded, and no other.
#[test]
fn the_readme_lists_the_names() {
    let sources = [include_str!("../../src/metrics.rs"), include_str!("../../README.md")];
    let [recorded, documented] = sources.map(|text| {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        words.filter(|word| word.starts_with("redlatch_")).collect::<BTreeSet<_>>()
    });
    assert_eq!(recorded, documented);
    assert!(recorded.len() > 10);
}
