//! From the sources to a [`Config`]: file, environment, flags, each over the one before.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Config, check,
    section::{Setting, Shown, closest},
    tree::{Node, Origin, Origins, Problem, Problems, Reader, Value},
};

/// Where settings are taken from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file, and what named it.
    pub file: Option<(PathBuf, Origin)>,
    /// The environment. Variables that do not begin with `HOLDOVER__` are left alone.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags, in the order given.
    pub flags: Vec<Flag>,
}

/// A setting that was given as a flag.
#[derive(Clone, Debug)]
pub struct Flag {
    /// Its name, with dashes.
    pub name: &'static str,
    /// The key it sets.
    pub key: &'static str,
    /// The values; more than one for lists.
    pub values: Vec<String>,
}

/// A configuration in which nothing is wrong.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Where they came from.
    pub origins: Origins,
}

/// What environment variables of settings begin with.
const PREFIX: &str = "HOLDOVER__";

/// Reads and checks all sources. Reads files, but opens no port and resolves no name.
pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let (loaded, problems) = read(sources);
    if problems.0.is_empty() { Ok(loaded) } else { Err(problems) }
}

/// Like [`load`], for callers who need a part only: what was wrong is left at its default.
pub fn read(sources: &Sources) -> (Loaded, Problems) {
    let mut reader = Reader::default();
    let mut tree = Node::empty();
    if let Some((path, origin)) = &sources.file {
        tree.overlay(file(path, origin, &mut reader.problems));
    }
    tree.overlay(environment(&sources.environment, &mut reader.problems));
    tree.overlay(flags(&sources.flags));
    let config = Config::read(tree, &mut reader).unwrap_or_default();
    check::check(&config, &mut reader);
    let mut problems = reader.problems;
    // Sorting is stable: problems of one line stay in the order they were found.
    problems.sort_by(|a, b| a.origin.cmp(&b.origin));
    (Loaded { config, origins: reader.origins }, Problems(problems))
}

fn file(path: &Path, named_by: &Origin, problems: &mut Vec<Problem>) -> Node {
    let text = match fs::read(path).map(String::from_utf8) {
        Ok(Ok(text)) => text,
        Ok(Err(_)) => return unreadable(path, named_by, "it is not UTF-8", problems),
        Err(error) => return unreadable(path, named_by, &error.to_string(), problems),
    };
    let path: Arc<Path> = path.into();
    let mut tree = Node::parse(&text, &|line| Origin::File(path.clone(), line), problems);
    if let Value::Table(sections) = &mut tree.value
        && let Some(Value::Table(upstream)) = sections.get_mut("upstream").map(|node| &mut node.value)
        && let Some(urls) = upstream.remove("urls")
    {
        if upstream.contains_key("url") {
            problems.push(Problem {
                origin: urls.origin,
                key: "upstream.urls".to_owned(),
                message: "`url` is set as well".to_owned(),
                help: Some("write all backends into `urls`".to_owned()),
            });
        } else {
            upstream.insert("url".to_owned(), urls);
        }
    }
    tree
}

fn unreadable(path: &Path, named_by: &Origin, why: &str, problems: &mut Vec<Problem>) -> Node {
    problems.push(Problem {
        origin: named_by.clone(),
        key: String::new(),
        message: format!("cannot read {}: {why}", path.display()),
        help: None,
    });
    Node::empty()
}

/// All keys that can be set from outside of a file, and whether they are secret. The keys of lists of sections stand
/// for the whole list.
pub(super) fn keys() -> Vec<(String, bool)> {
    fn collect(prefix: &str, shown: Shown, keys: &mut Vec<(String, bool)>) {
        let Shown::Table(fields) = shown else { return };
        for field in fields {
            let key = if prefix.is_empty() { field.key.to_owned() } else { format!("{prefix}.{}", field.key) };
            match field.value {
                Shown::Table(_) => collect(&key, field.value, keys),
                Shown::Unset | Shown::Value(_) | Shown::Tables(_) => keys.push((key, field.secret)),
            }
        }
    }
    let mut keys = Vec::new();
    collect("", Config::default().show(), &mut keys);
    keys
}

/// The variable that sets a key.
pub fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

fn environment(variables: &[(OsString, OsString)], problems: &mut Vec<Problem>) -> Node {
    let mut tree = Node::empty();
    let known: Vec<_> = keys().into_iter().map(|(key, secret)| (variable(&key), key, secret)).collect();
    let mut variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (name.to_string_lossy(), value))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    variables.sort();
    let mut seen: Vec<&str> = Vec::new();
    for (name, value) in &variables {
        let origin = Origin::Env(name.to_string());
        let mut problem = |key: &str, message: String, help| {
            problems.push(Problem { origin: origin.clone(), key: key.to_owned(), message, help });
        };
        let name = if name == "HOLDOVER__UPSTREAM__URLS" { "HOLDOVER__UPSTREAM__URL" } else { name };
        let direct = known.iter().find(|(variable, ..)| variable == name);
        let by_file =
            || known.iter().find(|(variable, _, secret)| *secret && name.strip_suffix("_FILE") == Some(variable));
        let Some((variable, key, _)) = direct.or_else(by_file) else {
            let section = known.iter().find(|(variable, ..)| variable.starts_with(&format!("{name}__")));
            let help = match section {
                Some((variable, ..)) => Some(format!("it names a section; set its keys, such as {variable}")),
                None => closest(name, known.iter().map(|(variable, ..)| variable.as_str()))
                    .map(|near| format!("did you mean {near}?")),
            };
            problem("", format!("unknown variable {name}"), help);
            continue;
        };
        if seen.contains(&variable.as_str()) {
            problem(
                key,
                "two variables set this key".to_owned(),
                Some(format!("leave {variable} or the other one out")),
            );
            continue;
        }
        seen.push(variable);
        let Some(mut text) = value.to_str().map(str::to_owned) else {
            problem(key, "the value is not UTF-8".to_owned(), None);
            continue;
        };
        if direct.is_none() {
            match fs::read_to_string(&text) {
                Ok(secret) => text = secret.trim().to_owned(),
                Err(error) => {
                    // The name is not shown: it may be the secret itself, put where its file was meant.
                    problem(key, format!("cannot read the file it names: {error}"), None);
                    continue;
                }
            }
        }
        tree.set(key, Node { value: Value::Raw(text), origin });
    }
    tree
}

fn flags(flags: &[Flag]) -> Node {
    let mut tree = Node::empty();
    for flag in flags {
        let origin = Origin::Flag(flag.name);
        let mut values =
            flag.values.iter().map(|value| Node { value: Value::Raw(value.clone()), origin: origin.clone() });
        let node = match (values.next(), values.len()) {
            (None, _) => continue,
            (Some(one), 0) => one,
            (Some(first), _) => Node { value: Value::List(std::iter::once(first).chain(values).collect()), origin },
        };
        tree.set(flag.key, node);
    }
    tree
}
