//! What the URL of a cluster or of Sentinels says: some servers of one deployment, in one URL.

use redis::{ConnectionInfo, RedisConnectionInfo};

use super::{
    FRAGMENT, Fault, Target,
    address::{Address, DEFAULT_PORT},
    cut, info,
    parameters::{Draft, decoded},
    parts::Parts,
    read_database,
    scheme::Security,
};

/// `user:password@host:port,host:port/database?parameters`.
pub(super) fn cluster(rest: &str, security: Security) -> Result<Target, Fault> {
    let parts = Parts::of(rest);
    let (addresses, mut draft) = list(&parts, DEFAULT_PORT)?;
    read_database(&mut draft, parts.path)?;
    draft.read(&parts, false)?;
    if draft.hides_client_info() {
        return Err(Fault::new(
            "the parameter `client_info`: a cluster's connections begin with it",
        ));
    }
    Ok(Target::Cluster(infos(addresses, security, &draft.settings())?))
}

/// `user:password@host:port,host:port/master-name/database?parameters`, where user and password are the master's.
pub(super) fn sentinel(rest: &str, security: Security) -> Result<Target, Fault> {
    let parts = Parts::of(rest);
    let (addresses, mut draft) = list(&parts, SENTINEL_PORT)?;
    let (name, database) = cut(parts.path.trim_start_matches('/'), '/');
    let master_name = decoded(name)?;
    if !is_master_name(&master_name) {
        return Err(Fault::new(MASTER_NAME));
    }
    read_database(&mut draft, database.unwrap_or_default())?;
    draft.read(&parts, false)?;
    let settings = draft.settings();
    let mut sentinels_settings = RedisConnectionInfo::default();
    if settings.skip_set_lib_name() {
        sentinels_settings = sentinels_settings.set_skip_set_lib_name();
    }
    let sentinels = infos(addresses, security, &sentinels_settings)?;
    Ok(Target::Sentinel { sentinels, master_name, settings })
}

/// Whether Sentinels may know a master by this name.
pub(super) fn is_master_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !name.is_empty() && name.chars().all(is_part)
}

/// Where the servers are, and as whom to log in.
fn list(parts: &Parts<'_>, default_port: u16) -> Result<(Vec<Address>, Draft), Fault> {
    let (credentials, list) = parts.credentials()?;
    let addresses = list.split(',').map(|address| Address::read(address, default_port));
    let addresses = addresses.collect::<Result<_, _>>()?;
    if parts.fragment.is_some() {
        return Err(Fault::new(FRAGMENT));
    }
    let mut draft = Draft::default();
    draft.log_in(credentials.unwrap_or_default())?;
    Ok((addresses, draft))
}

fn infos(
    addresses: Vec<Address>,
    security: Security,
    settings: &RedisConnectionInfo,
) -> Result<Vec<ConnectionInfo>, Fault> {
    let info = |address: Address| info(address.over(security), settings.clone());
    addresses.into_iter().map(info).collect()
}

pub(super) const SENTINEL_PORT: u16 = 26379;

pub(super) const MASTER_NAME: &str = "the name of the master (letters, digits, and any of . - _) follows the Sentinels, \
                                      as in redis-sentinel://host1:26379,host2:26379/mymaster";
