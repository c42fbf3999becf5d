//! The servers to lock on.

use redlatch::{LockManager, Node};

use crate::{args::Options, failure::Failure};

/// A manager over one node, or over a quorum of several. It connects to nothing yet. The options have one URL a node then.
pub(crate) fn manager(options: &mut Options) -> Result<LockManager, Failure> {
    options.nodes = urls(options)?;
    let mut nodes = nodes(options)?;
    let builder = match nodes.len() {
        0 => return Err(Failure::Usage(nowhere())),
        1 => LockManager::single(nodes.remove(0)),
        _ => LockManager::quorum(nodes),
    };
    let builder = builder.key_prefix(&options.key_prefix).node_timeout(options.node_timeout());
    let builder = match options.outage_patience {
        Some(patience) => builder.outage_patience(patience),
        None => builder,
    };
    Ok(match options.restart_quarantine {
        // The TTL of a manager must not be longer, though every `run` has its own.
        Some(longest) => builder.restart_quarantine(longest).ttl(longest).build()?,
        None => builder.build()?,
    })
}

/// The nodes, each let in as the options say. Of several, an error says which it is about.
fn nodes(options: &Options) -> Result<Vec<Node>, Failure> {
    let of = options.nodes.len();
    let node = |(at, url): (usize, &String)| match Node::open(url) {
        Ok(node) => options.access.of(node),
        Err(error) if of == 1 => Err(error.into()),
        Err(error) => Err(Failure::Usage(format!("node {} of {of}: {error}", at + 1))),
    };
    options.nodes.iter().enumerate().map(node).collect()
}

/// The URLs of the nodes, from the file if one is named.
fn urls(options: &Options) -> Result<Vec<String>, Failure> {
    let Some(file) = &options.nodes_file else {
        return Ok(joined(options.nodes.iter().flat_map(|list| list.split(','))));
    };
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::Usage(format!("the file of --nodes-file cannot be read: {error}"))
    })?;
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    Ok(joined(lines.flat_map(|line| line.split(','))))
}

/// Puts together what belongs to one node: a part without `://` is one more server of the node before it.
fn joined<'a>(parts: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut urls: Vec<String> = Vec::new();
    for part in parts.map(str::trim).filter(|part| !part.is_empty()) {
        match urls.last_mut().filter(|_| !part.contains("://")) {
            Some(url) => {
                url.push(',');
                url.push_str(part);
            }
            None => urls.push(part.to_owned()),
        }
    }
    urls
}

/// That no server is named, and what to do.
fn nowhere() -> String {
    let mut text = "no Redis server is named: set REDLATCH_NODES, or --nodes, to something like redis://127.0.0.1:6379"
        .to_owned();
    if std::env::var_os("REDLATCH_KEY").is_some() {
        text.push_str(" (`redlatch run` hands REDLATCH_NODES on with --pass-nodes only)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(list: &str) -> Vec<String> {
        joined(list.split(','))
    }

    #[test]
    fn a_part_without_a_scheme_belongs_to_the_node_before_it() {
        let list = " redis-cluster://ann:p,w@a:1, b:2 ,,redis://c,redis-sentinel://d,e/locks,";
        let nodes = ["redis-cluster://ann:p,w@a:1,b:2", "redis://c", "redis-sentinel://d,e/locks"];
        assert_eq!(parts(list), nodes);
        assert_eq!(parts("a:1,redis://b"), ["a:1", "redis://b"]);
        assert_eq!(parts(" ,"), [""; 0]);
    }
}
