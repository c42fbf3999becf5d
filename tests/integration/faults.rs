//! Nodes that answer wrongly or not at all: each is named with its own words, and nothing is changed on it.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::thread::spawn;

use redlatch::{Error, LockManager, LockManagerBuilder};

use crate::support::{LASTING, Proxy, Server, chain, millis, secs, within};

/// Tests what each fault comes to.
macro_rules! each_fault {
    ($($fault:ident),+ $(,)?) => {$(
        mod $fault {
            #[tokio::test]
            async fn on_one_node_ends_acquire_after_the_outage_rounds() {
                super::assert_acquire_gives_up(super::$fault(1)).await;
            }

            #[tokio::test]
            async fn on_three_nodes_ends_acquire_after_the_outage_rounds() {
                super::assert_acquire_gives_up(super::$fault(3)).await;
            }

            #[tokio::test]
            async fn on_one_node_is_told_by_try_acquire_at_once() {
                super::assert_told_at_once(super::$fault(1)).await;
            }

            #[tokio::test]
            async fn on_three_nodes_is_told_by_try_acquire_at_once() {
                super::assert_told_at_once(super::$fault(3)).await;
            }

            #[tokio::test]
            async fn on_one_node_of_three_does_no_harm() {
                super::assert_a_majority_works(super::$fault(1)).await;
            }

            #[tokio::test]
            async fn on_two_nodes_of_three_is_an_outage() {
                super::assert_a_minority_is_too_few(super::$fault(2)).await;
            }
        }
    )+};
}

each_fault!(
    a_refused_connection,
    an_unknown_host,
    a_wrong_password,
    a_wrong_password_over_resp3,
    a_missing_password,
    a_password_where_none_is_set,
    a_user_who_may_run_no_scripts,
    a_user_who_may_not_touch_the_key,
    a_user_who_may_only_read,
    a_read_only_replica,
    a_server_out_of_memory,
    a_server_that_cannot_save,
    a_server_that_loads_its_data,
    a_server_busy_with_a_script,
    a_cluster_that_is_down,
    a_server_with_too_many_clients,
    a_database_out_of_range,
    a_key_of_another_type,
    a_counter_of_another_type,
    a_counter_that_is_no_number,
    a_counter_out_of_range,
    a_port_that_hangs_up,
    a_port_that_speaks_another_protocol,
);

async fn assert_acquire_gives_up(faulty: Faulty) {
    let before = faulty.contents();
    let manager = faulty.builder(&[]).outage_patience(millis(50)).build().unwrap();
    let error = within(manager.lock("k").acquire()).await.unwrap_err();
    faulty.assert_told(&error, 0);
    assert_eq!(faulty.contents(), before);
}

async fn assert_told_at_once(faulty: Faulty) {
    let before = faulty.contents();
    let manager = faulty.builder(&[]).build().unwrap();
    let error = within(manager.lock("k").try_acquire()).await.unwrap_err();
    faulty.assert_told(&error, 0);
    assert_eq!(faulty.contents(), before);
}

async fn assert_a_majority_works(faulty: Faulty) {
    let (before, healthy) = (faulty.contents(), Server::group(2));
    let manager = || faulty.builder(&healthy).build().unwrap();
    let guard = within(manager().lock("k").ttl(secs(60)).acquire()).await.unwrap();
    within(guard.extend(secs(600))).await.unwrap();
    let error = within(manager().lock("k").try_acquire()).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyHeld { .. }), "{error:?}");
    let status = within(manager().inspect("k")).await.unwrap();
    assert_eq!(status.owner_token(), Some(guard.owner_token()));
    within(guard.release()).await.unwrap();
    assert!(healthy.iter().all(|server| server.lock_keys().is_empty()));
    assert_eq!(faulty.contents(), before);
}

async fn assert_a_minority_is_too_few(faulty: Faulty) {
    let (before, healthy) = (faulty.contents(), Server::group(1));
    let manager = faulty.builder(&healthy).build().unwrap();
    let error = within(manager.lock("k").try_acquire()).await.unwrap_err();
    faulty.assert_told(&error, 1);
    assert_eq!(within(manager.close()).await, 0);
    assert!(healthy[0].lock_keys().is_empty(), "what the healthy node gave is given back");
    assert_eq!(faulty.contents(), before);
}

/// Nodes that all fail in one way.
struct Faulty {
    servers: Vec<Server>,
    /// What answers in the servers' place.
    #[expect(dead_code, reason = "they answer as long as they are there")]
    proxies: Vec<Proxy>,
    urls: Vec<String>,
    /// What the causes of the error must say.
    words: &'static str,
}

impl Faulty {
    /// Servers that `spoil` makes faulty; it returns the URL to use.
    fn servers(n: usize, words: &'static str, spoil: impl Fn(&Server) -> String) -> Self {
        let servers = Server::group(n);
        let urls = servers.iter().map(spoil).collect();
        Self { servers, proxies: Vec::new(), urls, words }
    }

    /// Servers that `command` makes faulty.
    fn commanded(n: usize, words: &'static str, command: &[&str]) -> Self {
        Self::servers(n, words, |server| {
            server.command(command);
            server.url()
        })
    }

    /// Servers that answer every script with this error.
    fn refusing(n: usize, words: &'static str, error: &'static str) -> Self {
        let servers = Server::group(n);
        let proxies: Vec<_> = servers.iter().map(Proxy::start).collect();
        proxies.iter().for_each(|proxy| proxy.refuse_scripts(error));
        let urls = proxies.iter().map(Proxy::url).collect();
        Self { servers, proxies, urls, words }
    }

    /// Servers with a user of these rights only.
    fn limited(n: usize, words: &'static str, rules: &[&str]) -> Self {
        Self::servers(n, words, |server| server.user("limited", "secret", rules))
    }

    /// Addresses that are no servers.
    fn addresses(n: u16, words: &'static str, address: impl Fn(u16) -> String) -> Self {
        let urls = (1..=n).map(|place| format!("redis://{}", address(place))).collect();
        Self { servers: Vec::new(), proxies: Vec::new(), urls, words }
    }

    /// A builder over the faulty nodes and some healthy ones.
    fn builder(&self, healthy: &[Server]) -> LockManagerBuilder {
        let urls = self.urls.iter().cloned().chain(healthy.iter().map(Server::url));
        LockManager::quorum(urls).node_timeout(secs(10)).release_timeout(secs(10)).ttl(LASTING)
    }

    fn contents(&self) -> Vec<BTreeMap<String, Vec<u8>>> {
        self.servers.iter().map(Server::contents).collect()
    }

    /// The error says that these nodes are to blame, and what for; at most so many others have answered.
    fn assert_told(&self, error: &Error, others: usize) {
        let Error::Unavailable { key, needed, reached, nodes, .. } = error else {
            panic!("{error:?}");
        };
        let all = self.urls.len() + others;
        assert_eq!((key.as_str(), *needed), ("k", all / 2 + 1));
        assert!(*reached <= others, "{error:?}");
        assert!(error.is_unavailable() && error.key() == Some("k"));
        let wrong = [error.is_contended(), error.is_not_held(), error.is_lost()];
        assert!(!wrong.contains(&true) && !error.is_timeout() && !error.is_config());
        assert!(nodes.len() > self.urls.len() - all.div_ceil(2), "enough of them: {nodes:?}");
        for node in nodes {
            let host = node.node().trim_end_matches(":6379");
            assert!(self.urls.iter().any(|url| url.contains(host)), "{node:?}");
            assert!(node.to_string().contains(host), "{node}");
            let causes = chain(node).split_off(1);
            let mut pairs = causes.windows(2);
            assert!(pairs.all(|pair| !pair[0].contains(&*pair[1])), "said twice: {causes:?}");
            let causes = causes.join(": ");
            let said = causes.to_lowercase().contains(&self.words.to_lowercase());
            assert!(!causes.is_empty() && said, "{causes}");
            assert!(error.to_string().contains(host), "{error}");
        }
    }
}

fn a_refused_connection(n: u16) -> Faulty {
    Faulty::addresses(n, "refused", |place| format!("127.0.0.1:{place}"))
}

fn an_unknown_host(n: u16) -> Faulty {
    // What a resolver says differs from one to the next.
    Faulty::addresses(n, "", |place| format!("nowhere-{place}.invalid"))
}

fn a_wrong_password(n: usize) -> Faulty {
    // The client has its own words where RESP2 is spoken.
    Faulty::servers(n, "authentication failed", |server| {
        server.user("ann", "right", &["~*", "+@all"]).replace("right", "wrong")
    })
}

fn a_wrong_password_over_resp3(n: usize) -> Faulty {
    Faulty::servers(n, "WRONGPASS", |server| {
        let url = server.user("ann", "right", &["~*", "+@all"]);
        format!("{}?protocol=resp3", url.replace("right", "wrong"))
    })
}

fn a_missing_password(n: usize) -> Faulty {
    Faulty::commanded(n, "NOAUTH", &["CONFIG", "SET", "requirepass", "secret"])
}

fn a_password_where_none_is_set(n: usize) -> Faulty {
    Faulty::servers(n, "none set for the default user", |server| {
        server.url().replace("redis://", "redis://:hunter2@")
    })
}

fn a_user_who_may_run_no_scripts(n: usize) -> Faulty {
    Faulty::limited(n, "no permissions", &["~*", "&*", "+ping", "+get", "+set"])
}

fn a_user_who_may_not_touch_the_key(n: usize) -> Faulty {
    Faulty::limited(n, "no permissions", &["~other:*", "+@all"])
}

fn a_user_who_may_only_read(n: usize) -> Faulty {
    let rules = ["~*", "&*", "+@read", "+eval", "+evalsha", "+ping"];
    // It "can't run this command", or from Redis 7.2 on "has no permissions to run the 'set' command".
    Faulty::limited(n, "run th", &rules)
}

fn a_read_only_replica(n: usize) -> Faulty {
    Faulty::commanded(n, "write against a read only", &["REPLICAOF", "127.0.0.1", "1"])
}

fn a_server_out_of_memory(n: usize) -> Faulty {
    Faulty::commanded(n, "OOM", &["CONFIG", "SET", "maxmemory", "1"])
}

fn a_server_that_cannot_save(n: usize) -> Faulty {
    let servers: Vec<_> = (0..n).map(|_| Server::start_unable_to_save()).collect();
    let urls = servers.iter().map(Server::url).collect();
    Faulty { servers, proxies: Vec::new(), urls, words: "configured to save RDB snapshots" }
}

fn a_server_that_loads_its_data(n: usize) -> Faulty {
    let error = "LOADING Redis is loading the dataset in memory";
    Faulty::refusing(n, "loading the dataset", error)
}

fn a_server_busy_with_a_script(n: usize) -> Faulty {
    let error =
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.";
    Faulty::refusing(n, "busy running a script", error)
}

fn a_cluster_that_is_down(n: usize) -> Faulty {
    Faulty::refusing(n, "cluster is down", "CLUSTERDOWN The cluster is down")
}

fn a_server_with_too_many_clients(n: usize) -> Faulty {
    Faulty::commanded(n, "max number of clients reached", &["CONFIG", "SET", "maxclients", "1"])
}

fn a_database_out_of_range(n: usize) -> Faulty {
    Faulty::servers(n, "out of range", |server| format!("{}/99", server.url()))
}

fn a_key_of_another_type(n: usize) -> Faulty {
    Faulty::commanded(n, "WRONGTYPE", &["RPUSH", "k", "a list"])
}

fn a_counter_of_another_type(n: usize) -> Faulty {
    Faulty::commanded(n, "WRONGTYPE", &["RPUSH", "{k}:fence", "a list"])
}

fn a_counter_that_is_no_number(n: usize) -> Faulty {
    Faulty::commanded(n, "fencing counter", &["SET", "{k}:fence", "many"])
}

fn a_counter_out_of_range(n: usize) -> Faulty {
    Faulty::commanded(n, "fencing counter", &["SET", "{k}:fence", "9999999999999999999"])
}

fn a_port_that_hangs_up(n: u16) -> Faulty {
    Faulty::addresses(n, "", |_| listener(b""))
}

fn a_port_that_speaks_another_protocol(n: u16) -> Faulty {
    let words = "not a Redis server: it answered \"HTTP/1.1 400 Bad Request\"";
    Faulty::addresses(n, words, |_| {
        listener(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    })
}

/// An address whose listener greets with these bytes and hangs up, as long as the test runs.
fn listener(greeting: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is found");
    let address = listener.local_addr().expect("it is bound").to_string();
    spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            drop(client.write_all(greeting));
        }
    });
    address
}
