//! How a section is declared, read, shown and described.
//!
//! Sections do not go through serde: it stops at the first error, and an operator wants to see all of them.

use serde_json::{Value as Json, json};

use super::tree::{Node, Reader, Value};

/// What a field of a section can be: a section, a list, or a single value ([`Leaf`]).
pub(super) trait Setting: Sized {
    /// Whether the value must never be shown, and may be given as a file by `…__KEY_FILE`.
    const SECRET: bool = false;
    /// Reads a value. What is wrong is told to the reader; `None` then, and the default stands.
    fn read(node: Node, reader: &mut Reader) -> Option<Self>;
    /// The value as TOML, secrets redacted.
    fn show(&self) -> Shown;
    /// Its JSON schema.
    fn schema() -> Json;
}

/// A single value.
pub(super) trait Leaf: Sized {
    /// See [`Setting::SECRET`].
    const SECRET: bool = false;
    /// What is accepted, as it completes "expected …".
    const EXPECTED: &'static str;
    /// Reads it, if that can be.
    fn parse(value: &Value) -> Result<Self, Wrong>;
    /// The value as TOML, secrets redacted; `None` if it is unset.
    fn show(&self) -> Option<String>;
    /// Its JSON schema.
    fn schema() -> Json {
        json!({ "type": "string" })
    }
}

/// Why a value was not accepted. Never holds a secret.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Wrong {
    /// What is wrong; empty says that something else was expected.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl Wrong {
    /// A value of another type.
    pub(super) fn kind() -> Self {
        Self::default()
    }

    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A value as it is shown to people.
pub(super) enum Shown {
    /// Not set, and without a default.
    Unset,
    /// As TOML.
    Value(String),
    /// A section.
    Table(Vec<Field>),
    /// A list of sections.
    Tables(Vec<Vec<Field>>),
}

/// One key of a section as it is shown to people.
pub(super) struct Field {
    pub(super) key: &'static str,
    /// The lines of its doc comment.
    pub(super) docs: &'static [&'static str],
    pub(super) secret: bool,
    pub(super) value: Shown,
}

impl<T: Leaf> Setting for T {
    const SECRET: bool = <T as Leaf>::SECRET;

    fn read(node: Node, reader: &mut Reader) -> Option<Self> {
        reader.note(&node.origin);
        match T::parse(&node.value) {
            Ok(value) => Some(value),
            Err(wrong) => {
                let message = match wrong.message {
                    message if message.is_empty() => format!("expected {}, found {}", T::EXPECTED, node.value.kind()),
                    message => message,
                };
                reader.problem(node.origin, message, wrong.help);
                None
            }
        }
    }

    fn show(&self) -> Shown {
        Leaf::show(self).map_or(Shown::Unset, Shown::Value)
    }

    fn schema() -> Json {
        <T as Leaf>::schema()
    }
}

/// A list; a list of one may be written without brackets, and in the environment with commas.
impl<T: Setting> Setting for Vec<T> {
    fn read(node: Node, reader: &mut Reader) -> Option<Self> {
        reader.note(&node.origin);
        let nodes = match node.value {
            Value::List(nodes) => nodes,
            Value::Raw(raw) if raw.trim_start().starts_with('[') => reader.inline_list(&raw, &node.origin)?,
            Value::Raw(raw) => raw
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| Node { value: Value::Raw(item.to_owned()), origin: node.origin.clone() })
                .collect(),
            _ => vec![node],
        };
        let items = nodes.into_iter().enumerate();
        Some(
            items.filter_map(|(index, node)| reader.at(format!("[{index}]"), |reader| T::read(node, reader))).collect(),
        )
    }

    fn show(&self) -> Shown {
        let mut values = Vec::new();
        let mut tables = Vec::new();
        for item in self {
            match item.show() {
                Shown::Value(value) => values.push(value),
                Shown::Table(fields) => tables.push(fields),
                Shown::Unset | Shown::Tables(_) => {}
            }
        }
        if tables.is_empty() { Shown::Value(format!("[{}]", values.join(", "))) } else { Shown::Tables(tables) }
    }

    fn schema() -> Json {
        json!({ "anyOf": [T::schema(), { "type": "array", "items": T::schema() }] })
    }
}

/// A value whose size can be bounded.
pub(super) trait Bounded {
    type Size: PartialOrd + Leaf;
    /// What is compared; `None` is off, and in any range.
    fn size(&self) -> Option<&Self::Size>;
}

/// Declares a configuration section: its struct, its defaults, and how it is read, shown and described.
///
/// A field is `/// docs` `pub name [as "key"]: Type = default [; range],`. The range is inclusive.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        pub struct $Section:ident {
            $(
                $(#[doc = $doc:literal])+
                pub $field:ident $(as $key:literal)? : $Type:ty = $default:expr $(; $range:expr)?,
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Section {
            $( $(#[doc = $doc])+ pub $field: $Type, )+
        }

        impl Default for $Section {
            fn default() -> Self {
                Self { $( $field: $default, )+ }
            }
        }

        impl crate::config::section::Setting for $Section {
            fn read(
                node: crate::config::tree::Node,
                reader: &mut crate::config::tree::Reader,
            ) -> Option<Self> {
                let mut table = reader.table(node)?;
                let section = Self {
                    $( $field: reader.field(
                        &mut table,
                        section!(@key $field $($key)?),
                        || $default,
                        |_reader, _value: &$Type, _origin| { $( _reader.range(_value, $range, _origin); )? },
                    ), )+
                };
                reader.unknown(table, &[$( section!(@key $field $($key)?) ),+]);
                Some(section)
            }

            fn show(&self) -> crate::config::section::Shown {
                crate::config::section::Shown::Table(vec![$( crate::config::section::Field {
                    key: section!(@key $field $($key)?),
                    docs: &[$($doc),+],
                    secret: <$Type as crate::config::section::Setting>::SECRET,
                    value: crate::config::section::Setting::show(&self.$field),
                } ),+])
            }

            fn schema() -> serde_json::Value {
                let mut properties = serde_json::Map::new();
                $(
                    let mut schema = <$Type as crate::config::section::Setting>::schema();
                    schema["description"] = [$($doc.trim()),+].join(" ").into();
                    properties.insert(section!(@key $field $($key)?).to_owned(), schema);
                )+
                serde_json::json!({ "type": "object", "additionalProperties": false, "properties": properties })
            }
        }
    };
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
}

/// Declares a setting that is one of a few words.
macro_rules! choice {
    (
        $(#[doc = $about:literal])+
        pub enum $Choice:ident { $( $(#[doc = $doc:literal])+ $Variant:ident = $word:literal, )+ }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $Choice { $( $(#[doc = $doc])+ $Variant, )+ }

        impl crate::config::section::Leaf for $Choice {
            const EXPECTED: &'static str = concat!("one of" $(, " `", $word, "`")+);

            fn parse(value: &crate::config::tree::Value) -> Result<Self, crate::config::section::Wrong> {
                match value.text()? {
                    $( $word => Ok(Self::$Variant), )+
                    other => Err(crate::config::section::not_among(other, &[$($word),+])),
                }
            }

            fn show(&self) -> Option<String> {
                Some(crate::config::text::quoted(match self { $( Self::$Variant => $word, )+ }))
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({ "enum": [$($word),+] })
            }
        }
    };
}

pub(super) use {choice, section};

/// A word that is none of those known.
pub(super) fn not_among(given: &str, known: &[&str]) -> Wrong {
    let wrong = Wrong::new(format!("`{}` is not known here", given.escape_debug()));
    wrong.help(match closest(given, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("write one of {}", known.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")),
    })
}

/// The known word a mistyped one most likely stands for: at most a third of its letters, and never more than three,
/// are wrong, missing, too many or swapped.
pub(super) fn closest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let given: Vec<char> = given.to_lowercase().chars().take(64).collect();
    known
        .map(|word| (distance(&given, &word.to_lowercase().chars().collect::<Vec<_>>()), word))
        .filter(|(distance, word)| *distance <= (word.chars().count().max(3) / 3).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Optimal string alignment distance.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let substituted = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = substituted.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
