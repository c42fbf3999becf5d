//! What is left on the servers at the end.

use redis::Commands;
use redlatch_bench::Outcome;

use crate::PREFIX;

/// How many keys the servers have that should have gone: locks, and whatever has no expiry.
pub fn count(urls: &[String]) -> Outcome<usize> {
    let mut left = 0;
    for url in urls {
        let mut server = redis::Client::open(url.as_str())?.get_connection()?;
        let keys: Vec<String> = server.keys("*")?;
        for key in keys {
            let expires_in: i64 = server.pttl(&key)?;
            if key.starts_with(PREFIX) || expires_in == NO_EXPIRY {
                eprintln!("soak: LEFT on {url}: {key}, which expires in {expires_in} ms");
                left += 1;
            }
        }
    }
    Ok(left)
}

/// What `PTTL` says of a key that stays for ever.
const NO_EXPIRY: i64 = -1;
