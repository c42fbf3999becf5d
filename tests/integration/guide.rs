//! The links of the README and the guide lead somewhere, and no chapter is left out of the crate's documentation.

use std::{
    fs,
    path::{Path, PathBuf},
};

#[test]
fn every_link_leads_somewhere() {
    for page in pages() {
        for link in links(&read(&page)) {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { page.clone() } else { page.with_file_name(path) };
            assert!(target.exists(), "{}: {link}", page.display());
            let is_known =
                anchor.is_empty() || anchors(&read(&target)).any(|known| known == anchor);
            assert!(is_known, "{}: no heading for {link}", page.display());
        }
    }
}

#[test]
fn every_chapter_is_documentation_and_in_the_contents() {
    let (code, contents) =
        (read(&root().join("src/guide.rs")), read(&root().join("docs/README.md")));
    for page in pages().iter().filter(|page| page.parent() == Some(&root().join("docs"))) {
        let name = page.file_name().unwrap().to_str().unwrap();
        assert!(code.contains(name), "{name} is not in guide.rs");
        assert!(name == "README.md" || contents.contains(name), "{name} is not in the contents");
    }
}

/// Targets within the repository: of `[..](target)`, and of `[..]: target`.
fn links(text: &str) -> Vec<String> {
    let inline = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(to, _)| to);
    let defined = text.lines().filter(|line| line.starts_with('['));
    let defined = defined.filter_map(|line| line.split_once("]: ")).map(|(_, to)| to);
    let all = inline.chain(defined).filter(|to| !to.contains("://"));
    all.map(str::to_owned).collect()
}

/// What a link to a heading is called: lower case, without punctuation, hyphens for blanks.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    docs.chain([root().join("README.md")]).collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
