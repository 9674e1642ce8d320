//! Configurations as people read them: the documented default file, what is in effect, the schema.

use std::fmt::Write;

use serde_json::{Value as Json, json};

use super::{
    Config, Loaded,
    section::{Field, Setting, Shown},
    tree::{Origin, Origins},
};

/// The complete default configuration, each key with its documentation. Keys without a default are commented out.
pub fn default_file() -> String {
    let mut page = Page { text: String::new(), origins: None };
    page.text.push_str(
        "# Every setting of Holdover, with its default. Write down only what you change.\n\
         #\n\
         # Durations are whole numbers with units (250ms, 10s, 5m, 1h30m, 7d), sizes have units of bytes (64KiB, 1MiB,\n\
         # 1GiB). A list of one may be written without brackets.\n\
         #\n\
         # A key is also set by an environment variable, which wins over the file: store.url by HOLDOVER__STORE__URL.\n\
         # Secrets can be read from a file: HOLDOVER__STORE__PASSWORD_FILE=/run/secrets/redis. Flags win over both.\n",
    );
    page.sections(Config::default().show());
    page.text
}

/// The JSON schema of a configuration file.
pub fn schema() -> Json {
    let mut schema = Config::schema();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Holdover");
    let urls = schema["properties"]["upstream"]["properties"]["url"].clone();
    schema["properties"]["upstream"]["properties"]["urls"] = urls;
    schema
}

impl Loaded {
    /// All settings in effect, as TOML, each with the place it came from. Secrets are redacted.
    pub fn print(&self) -> String {
        let mut page = Page { text: String::new(), origins: Some(&self.origins) };
        page.sections(self.config.show());
        page.text
    }
}

/// Where an origin begins, if the value leaves room.
const ORIGIN_COLUMN: usize = 48;

/// A page of TOML: with origins, or else with documentation.
struct Page<'a> {
    text: String,
    origins: Option<&'a Origins>,
}

impl Page<'_> {
    fn sections(&mut self, root: Shown) {
        let Shown::Table(fields) = root else { return };
        for field in fields {
            self.tables("", field);
        }
    }

    /// A key that holds one section or a list of them.
    fn tables(&mut self, prefix: &str, field: Field) {
        let name = format!("{prefix}{}", field.key);
        match field.value {
            Shown::Table(fields) => {
                self.heading(field.docs, &format!("[{name}]"));
                self.table(&name, &name, fields);
            }
            Shown::Tables(list) => {
                for (index, fields) in list.into_iter().enumerate() {
                    self.heading(field.docs, &format!("[[{name}]]"));
                    self.table(&name, &format!("{name}[{index}]"), fields);
                }
            }
            Shown::Unset | Shown::Value(_) => {}
        }
    }

    fn heading(&mut self, docs: &[&str], heading: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.docs(docs);
        self.line(heading);
    }

    /// The single values of a section, then its inner sections.
    fn table(&mut self, name: &str, key: &str, fields: Vec<Field>) {
        let (single, inner): (Vec<_>, Vec<_>) =
            fields.into_iter().partition(|field| matches!(field.value, Shown::Unset | Shown::Value(_)));
        for field in single {
            let line = match field.value {
                Shown::Value(value) => format!("{} = {value}", field.key),
                _ => format!("# {} = \"\"", field.key),
            };
            match self.origins {
                None => {
                    self.text.push('\n');
                    self.docs(field.docs);
                    self.line(&line);
                }
                Some(_) if line.starts_with('#') => {}
                Some(origins) => {
                    let origin: &Origin = origins.get(&format!("{key}.{}", field.key));
                    self.line(&format!("{line:ORIGIN_COLUMN$}  # {origin}"));
                }
            }
        }
        for field in inner {
            self.tables(&format!("{name}."), field);
        }
    }

    fn docs(&mut self, docs: &[&str]) {
        if self.origins.is_none() {
            docs.iter().for_each(|line| self.line(&format!("#{line}")));
        }
    }

    fn line(&mut self, line: &str) {
        writeln!(self.text, "{line}").expect("writing to a String cannot fail");
    }
}
