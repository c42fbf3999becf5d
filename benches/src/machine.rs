//! Where the figures come from: the machine and the versions.

use std::{process::Command, thread::available_parallelism};

use crate::args::Args;

/// One line that goes with the table.
pub fn describe(args: &Args) -> String {
    let cores = available_parallelism().map_or(0, usize::from);
    let kernel = said("uname", &["-sr"]);
    let redis = said("redis-server", &["--version"]);
    let redis = redis.split_whitespace().find_map(|word| word.strip_prefix("v="));
    let rustc = said("rustc", &["--version"]);
    let rustc = rustc.split_whitespace().nth(1).unwrap_or("unknown");
    format!(
        "`{}` on {}, {cores} cores, {kernel}; redis-server {}, rustc {rustc}; {}",
        args.command(),
        cpu(),
        redis.unwrap_or("unknown"),
        said("date", &["-u", "+%F"]),
    )
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map(|rest| rest.trim_start_matches(['\t', ' ', ':']).to_owned());
    model.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// What a program prints, or "unknown".
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().ok();
    let text = output.and_then(|output| String::from_utf8(output.stdout).ok());
    text.map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
}
