//! The values of all sources in one tree, each with the place it came from; and what was found wrong with them.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt,
    ops::{Bound, Range, RangeBounds},
    path::Path,
    sync::Arc,
};

use toml::de::{DeTable, DeValue};

use super::section::{Bounded, Leaf, Setting, Wrong, closest};

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nowhere: the built-in default stands.
    #[default]
    Default,
    /// A line of the configuration file, from 1; 0 is the file as a whole.
    File(Arc<Path>, usize),
    /// An environment variable.
    Env(String),
    /// A command line flag.
    Flag(&'static str),
}

/// Where each value that is not a default came from, by key (`store.url`, `route[0].path`; lists count from 0).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Origins(BTreeMap<String, Origin>);

/// One thing that is wrong with what an operator set.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Where it stands. [`Origin::Default`] if something is missing.
    pub origin: Origin,
    /// The key it is about; empty if it is about a source as a whole.
    pub key: String,
    /// What is wrong. Never shows a secret.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

/// Everything that is wrong, by place. Never empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Problems(pub Vec<Problem>);

/// A value and where it came from.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// A value before its type is known.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Bool(bool),
    /// Saturates far outside of what any setting takes.
    Integer(i128),
    Text(String),
    /// From the environment or a flag, which know no types: the reader of the key decides.
    Raw(String),
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
    /// What no setting takes: the name of its type.
    Other(&'static str),
}

impl Value {
    /// The name of its type, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Text(_) | Self::Raw(_) => "another text",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }

    /// The value of something that is written as text.
    pub(super) fn text(&self) -> Result<&str, Wrong> {
        match self {
            Self::Text(text) | Self::Raw(text) => Ok(text),
            _ => Err(Wrong::kind()),
        }
    }

    /// The value of a number.
    pub(super) fn integer(&self) -> Result<i128, Wrong> {
        match self {
            Self::Integer(integer) => Ok(*integer),
            Self::Raw(text) => text.trim().parse().map_err(|_| Wrong::kind()),
            _ => Err(Wrong::kind()),
        }
    }
}

impl Node {
    /// An empty table.
    pub(super) fn empty() -> Self {
        Self { value: Value::Table(BTreeMap::new()), origin: Origin::Default }
    }

    /// Reads TOML. Whatever can be understood is in the tree, whatever cannot is among the problems.
    pub(super) fn parse(text: &str, origin: &impl Fn(usize) -> Origin, problems: &mut Vec<Problem>) -> Self {
        let lines = Lines::new(text);
        let at = |span: Range<usize>| origin(lines.number(span.start));
        let (table, errors) = DeTable::parse_recoverable(text);
        problems.extend(errors.into_iter().map(|error| Problem {
            origin: at(error.span().unwrap_or(0..0)),
            key: String::new(),
            message: format!("not TOML: {}", error.message().lines().collect::<Vec<_>>().join(", ")),
            help: None,
        }));
        Self { value: convert(DeValue::Table(table.into_inner()), &at), origin: origin(0) }
    }

    /// Puts another tree over this one: its values win, tables are merged.
    pub(super) fn overlay(&mut self, over: Node) {
        match (&mut self.value, over.value) {
            (Value::Table(below), Value::Table(above)) => {
                for (key, node) in above {
                    match below.get_mut(&key) {
                        Some(known) => known.overlay(node),
                        None => drop(below.insert(key, node)),
                    }
                }
            }
            // A section that is no table is reported where it stands; it must not vanish below another source.
            (_, Value::Table(_)) => {}
            (value, above) => {
                *value = above;
                self.origin = over.origin;
            }
        }
    }

    /// Puts a value at a dotted key of this tree, over what is there.
    pub(super) fn set(&mut self, key: &str, node: Node) {
        let nested = key.rsplit('.').fold(node, |node, part| Node {
            origin: node.origin.clone(),
            value: Value::Table(BTreeMap::from([(part.to_owned(), node)])),
        });
        self.overlay(nested);
    }
}

fn convert(value: DeValue<'_>, at: &impl Fn(Range<usize>) -> Origin) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Integer(integer) => {
            Value::Integer(i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i128::MAX))
        }
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => Value::List(
            items
                .into_iter()
                .map(|item| Node { origin: at(item.span()), value: convert(item.into_inner(), at) })
                .collect(),
        ),
        DeValue::Table(entries) => Value::Table(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let origin = at(key.span());
                    (key.into_inner().into_owned(), Node { origin, value: convert(value.into_inner(), at) })
                })
                .collect(),
        ),
    }
}

/// Where the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        Self(std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|end| end + 1)).collect())
    }

    /// The line a byte is in, from 1.
    fn number(&self, byte: usize) -> usize {
        self.0.partition_point(|start| *start <= byte)
    }
}

/// Reads a tree into sections; collects origins and problems on the way.
#[derive(Default)]
pub(super) struct Reader {
    /// The key that is being read.
    key: String,
    pub(super) origins: Origins,
    pub(super) problems: Vec<Problem>,
}

impl Reader {
    /// Reads something one step further down.
    pub(super) fn at<T>(&mut self, step: impl AsRef<str>, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.key.len();
        if length > 0 && !step.as_ref().starts_with('[') {
            self.key.push('.');
        }
        self.key.push_str(step.as_ref());
        let result = read(self);
        self.key.truncate(length);
        result
    }

    /// The key that is being read.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Keeps where the value of the current key came from.
    pub(super) fn note(&mut self, origin: &Origin) {
        self.origins.0.insert(self.key.clone(), origin.clone());
    }

    /// Keeps what is wrong with the current key.
    pub(super) fn problem(&mut self, origin: Origin, message: impl Into<String>, help: Option<String>) {
        self.problems.push(Problem { origin, key: self.key.clone(), message: message.into(), help });
    }

    /// The entries of a section.
    pub(super) fn table(&mut self, node: Node) -> Option<BTreeMap<String, Node>> {
        match node.value {
            Value::Table(entries) => Some(entries),
            other => {
                self.problem(node.origin, format!("expected a table, found {}", other.kind()), None);
                None
            }
        }
    }

    /// Takes one field out of a section, or its default.
    pub(super) fn field<T: Setting>(
        &mut self,
        table: &mut BTreeMap<String, Node>,
        key: &str,
        default: impl FnOnce() -> T,
        check: impl FnOnce(&mut Self, &T, Origin),
    ) -> T {
        let Some(node) = table.remove(key) else { return default() };
        self.at(key, |reader| {
            let origin = node.origin.clone();
            let value = T::read(node, reader)?;
            check(reader, &value, origin);
            Some(value)
        })
        .unwrap_or_else(default)
    }

    /// Checks that a value is in its range.
    pub(super) fn range<T: Bounded>(&mut self, value: &T, range: impl RangeBounds<T::Size>, origin: Origin) {
        let Some(size) = value.size().filter(|size| !range.contains(size)) else { return };
        let bound = |bound, words: &str| match bound {
            Bound::Included(bound) => Leaf::show(bound).map(|bound| format!("{words} {bound}")),
            Bound::Excluded(_) | Bound::Unbounded => None,
        };
        let bounds: Vec<_> = [bound(range.start_bound(), "at least"), bound(range.end_bound(), "at most")]
            .into_iter()
            .flatten()
            .collect();
        let message = format!("{} is out of range", Leaf::show(size).unwrap_or_default());
        self.problem(origin, message, Some(format!("write {}", bounds.join(" and "))));
    }

    /// Reports the keys of a section that nothing took.
    pub(super) fn unknown(&mut self, table: BTreeMap<String, Node>, known: &[&'static str]) {
        for (key, node) in table {
            let help = match closest(&key, known.iter().copied()) {
                Some(near) => Some(format!("did you mean `{near}`?")),
                None => super::load::keys()
                    .into_iter()
                    .find(|(path, _)| path.rsplit('.').next() == Some(&key))
                    .map(|(path, _)| format!("did you mean `{path}`?")),
            };
            let step = if key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
                key
            } else {
                format!("{key:?}")
            };
            self.at(step, |reader| reader.problem(node.origin, "unknown key", help));
        }
    }

    /// Reads a list that is written as TOML in one line, as in the environment.
    pub(super) fn inline_list(&mut self, raw: &str, origin: &Origin) -> Option<Vec<Node>> {
        match DeValue::parse(raw.trim()) {
            Ok(value) => match convert(value.into_inner(), &|_| origin.clone()) {
                Value::List(nodes) => Some(nodes),
                _ => None,
            },
            Err(error) => {
                self.problem(origin.clone(), format!("not TOML: {}", error.message()), None);
                None
            }
        }
    }
}

impl Origins {
    /// Where the value of a key came from.
    pub fn get(&self, key: &str) -> &Origin {
        self.0.get(key).unwrap_or(&Origin::Default)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, 0) => write!(f, "{}", path.display()),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Problem {
    /// One block of lines: what is wrong, where it stands, what to write.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("error: ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.message)?;
        if self.origin != Origin::Default {
            write!(f, "\n  --> {}", self.origin)?;
        }
        self.help.iter().try_for_each(|help| write!(f, "\n  help: {help}"))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}\n")?;
        }
        let count = self.0.len();
        write!(f, "{count} problem{} in the configuration", if count == 1 { "" } else { "s" })
    }
}

impl Error for Problems {}
