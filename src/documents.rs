//! Documents are code: what they name must exist, and what operators and clients meet must be in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use clap::Parser as _;

use crate::{cli::Cli, config, sse::TurnId, turn};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file of this kind in a folder and the folders in it, with its path from the root.
fn files(folder: &str, extension: &str) -> BTreeMap<PathBuf, String> {
    let (mut files, mut folders) = (BTreeMap::new(), vec![PathBuf::from(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).expect("the folder is there") {
            let entry = entry.expect("the folder can be read");
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                files.insert(path.clone(), read(path));
            }
        }
    }
    files
}

/// What is written for readers of the project.
fn documents() -> BTreeMap<PathBuf, String> {
    let mut documents = files("docs", "md");
    documents.extend(["README.md", "CHANGELOG.md"].map(|path| (path.into(), read(path))));
    documents
}

/// The fenced blocks of a document that are marked with `language`.
fn fences(text: &str, language: &str) -> Vec<String> {
    let parts = text.split("\n```").skip(1).step_by(2);
    parts.filter_map(|part| part.strip_prefix(language)?.strip_prefix('\n')).map(str::to_owned).collect()
}

/// What stands in backquotes outside of fenced blocks.
fn code_words(text: &str) -> Vec<String> {
    let prose: String = text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n");
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The section of a document below a heading, up to the next heading of any level.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let (_, below) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    below.split("\n#").next().unwrap_or_default()
}

/// The cells of the table rows in a text, without heads and rules.
fn rows(text: &str) -> Vec<Vec<String>> {
    let lines: Vec<_> = text.lines().collect();
    let row = |line: &str| {
        let cells = line.trim().strip_prefix("| ")?.trim_end_matches('|');
        Some(cells.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>())
    };
    let is_rule = |line: &&str| line.starts_with("|--");
    let head = |at: usize| lines.get(at + 1).is_some_and(is_rule);
    (0..lines.len()).filter(|at| !head(*at)).filter_map(|at| row(lines[at])).collect()
}

/// The words in backquotes in one cell.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn one_of(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The string literal that a piece of source begins with.
fn literal(source: &str) -> Option<&str> {
    source.trim_start().strip_prefix('"')?.split('"').next()
}

/// The body of a function, by the indentation of its last brace.
fn body<'a>(source: &'a str, signature: &str) -> &'a str {
    let at = source.find(signature).unwrap_or_else(|| panic!("no `{signature}`"));
    let indent = &source[source[..at].rfind('\n').map_or(0, |line| line + 1)..at];
    let indent: String = indent.chars().take_while(|c| *c == ' ').collect();
    source[at..].split(&format!("\n{indent}}}")).next().unwrap_or_default()
}

/// The words that a function's `match` gives.
fn arms(source: &str, signature: &str) -> BTreeSet<String> {
    let words: BTreeSet<_> =
        body(source, signature).split("=>").skip(1).filter_map(literal).map(str::to_owned).collect();
    assert!(!words.is_empty(), "`{signature}` gives no words");
    words
}

/// Second arguments of calls, where they are literals.
fn second_arguments(source: &str, call: &str) -> BTreeSet<String> {
    let second = |arguments: &str| {
        let mut depth = 0;
        let comma = arguments.find(|c| {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            c == ',' && depth == 0
        })?;
        literal(&arguments[comma + 1..]).map(str::to_owned)
    };
    source.split(call).skip(1).filter_map(second).collect()
}

/// Metrics as they are registered: name to kind and labels.
fn registered_metrics() -> BTreeMap<String, (String, Vec<String>)> {
    let source = read("src/metrics.rs");
    let new = body(&source, "pub fn new()");
    let mut metrics = BTreeMap::new();
    for kind in ["counter", "gauge", "histogram"] {
        for call in [format!(" {kind}("), format!(" {kind}_vec(")] {
            for rest in new.split(&call).skip(1) {
                let arguments = rest.split(')').next().unwrap_or_default();
                let name = arguments.split('"').nth(1).expect("a metric has a name");
                let labels = arguments.split("&[").nth(1).unwrap_or_default();
                let labels = labels.split('"').skip(1).step_by(2).map(str::to_owned).collect();
                metrics.insert(format!("holdover_{name}"), (kind.to_owned(), labels));
            }
        }
    }
    metrics
}

#[test]
fn every_metric_is_documented_as_it_is_registered() {
    let registered = registered_metrics();
    let scraped = crate::metrics::Metrics::new().names();
    assert!(scraped.iter().all(|name| registered.contains_key(name)), "{scraped:?} against {registered:?}");
    let document = read("docs/metrics.md");
    let documented: BTreeMap<_, _> = rows(&document)
        .into_iter()
        .filter(|cells| cells.len() == 4)
        .map(|cells| (quoted(&cells[0]).concat(), (cells[1].clone(), quoted(&cells[2]))))
        .collect();
    assert_eq!(documented, registered);
}

#[test]
fn documents_name_no_metric_that_does_not_exist() {
    let registered = registered_metrics();
    for (path, text) in documents() {
        let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
        for (at, _) in text.match_indices("holdover_") {
            let name = text[at..].split(|c| !is_part(c)).next().unwrap_or_default();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
            assert!(registered.contains_key(family), "{}: {name}", path.display());
        }
    }
}

#[test]
fn the_values_of_labels_are_documented() {
    let starts = read("src/node/starts.rs");
    let of_calls = |path: &str, call: &str| -> BTreeSet<String> {
        read(path).split(call).skip(1).filter_map(literal).map(str::to_owned).collect()
    };
    let outcomes = turn::Outcome::ALL.map(turn::Outcome::as_str);
    let redis = files("src/store/redis", "rs").into_iter().filter(|(path, _)| !path.to_string_lossy().contains("test"));
    let redis: String = redis.map(|(_, text)| text).collect();
    let calls = ["call(", "call::<Reply>(", "call::<u64>(", "call::<()>(", "call::<Value>("];
    let operations = calls.iter().flat_map(|call| redis.split(call).filter_map(literal)).map(str::to_owned).collect();
    let mut resumes = of_calls("src/proxy/resume.rs", "count_resume(");
    resumes.extend(one_of(&["replayed", "live"]));
    for (metric, label, values) in [
        ("turns_finished_total", "outcome", one_of(&outcomes)),
        ("turns_live", "state", of_calls("src/node/recording.rs", "live.with_label_values(&[")),
        ("turns_capped_total", "cap", arms(&read("src/turn/record.rs"), "impl Cap {")),
        ("starts_attached_total", "rule", arms(&read("src/turn/admission.rs"), "pub fn as_str(")),
        ("starts_refused_total", "reason", arms(&starts, "pub fn as_str(&self)")),
        ("resumes_total", "result", resumes),
        ("store_operations_total", "operation", operations),
    ] {
        let document = read("docs/metrics.md");
        let row = rows(&document).into_iter().find(|cells| cells[0] == format!("`holdover_{metric}`"));
        let text = row.expect("the metric is documented").pop().expect("a row has cells");
        let (_, listed) = text.split_once(&format!("`{label}`:")).unwrap_or_else(|| panic!("{metric}: no `{label}`:"));
        let listed: BTreeSet<_> = quoted(listed).into_iter().collect();
        assert_eq!(listed, values, "{metric}");
    }
}

/// Keys of all settings, such as `store.url`; those of a route as `route.path`.
fn settings() -> BTreeSet<String> {
    fn collect(schema: &serde_json::Value, prefix: &str, keys: &mut BTreeSet<String>) {
        // One route may stand without a list around it.
        let schema = if schema["anyOf"][0]["properties"].is_object() { &schema["anyOf"][0] } else { schema };
        for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
            let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            collect(inner, &key, keys);
            keys.insert(key);
        }
    }
    let mut keys = BTreeSet::new();
    collect(&config::schema(), "", &mut keys);
    assert!(keys.contains("route.max_turn") && keys.contains("identity.jwt.leeway"), "{keys:?}");
    keys
}

#[test]
fn documents_name_no_setting_that_does_not_exist() {
    let keys = settings();
    let last: BTreeSet<_> = keys.iter().filter_map(|key| key.rsplit('.').next()).collect();
    let sections: BTreeSet<_> = keys.iter().filter(|key| !key.contains('.')).map(String::as_str).collect();
    let mut named = 0;
    for (path, text) in documents() {
        for word in code_words(&text) {
            // `store.kind = "redis"` and `on_gap = "error"` name a setting, `store.kind` and `[store]` do too.
            let (key, assigned) = word.split_once(" = ").map_or((&*word, false), |(key, _)| (key, true));
            let key = key.trim_matches(['[', ']']);
            let plain = key.bytes().all(|b| b.is_ascii_lowercase() || b"_.".contains(&b));
            let of_section = key.split_once('.').is_some_and(|(section, rest)| {
                sections.contains(section) && !rest.is_empty() && !matches!(rest, "rs" | "md" | "toml")
            });
            if plain && (of_section || assigned || word.starts_with('[')) {
                named += 1;
                let known = keys.contains(key) || (assigned && last.contains(key));
                assert!(known, "{}: `{word}` names no setting", path.display());
            }
            if let Some(variable) = word.split('=').next().and_then(|word| word.strip_prefix("HOLDOVER__")) {
                named += 1;
                let key = variable.trim_end_matches("_FILE").to_lowercase().replace("__", ".");
                assert!(key == "section.key" || keys.contains(&key), "{}: `{word}`", path.display());
            }
        }
    }
    assert!(named > 50, "only {named} settings were found: the search does not see them any more");
}

#[test]
fn the_limits_table_has_every_bound() {
    let document = read("docs/operations.md");
    let listed: BTreeSet<_> =
        rows(section(&document, "## Limits")).iter().flat_map(|cells| quoted(&cells[0])).collect();
    for key in settings() {
        let name = key.rsplit('.').next().unwrap_or_default();
        let bound =
            name.starts_with("max_") && !name.ends_with("retries") || name.ends_with("_limit") || name == "followers";
        assert!(!bound || listed.contains(&key) || key == "drain.max", "{key} is not among the limits");
    }
}

#[test]
fn configurations_in_documents_are_good() {
    let mut count = 0;
    for (path, text) in documents() {
        for fence in fences(&text, "toml") {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("holdover.toml");
            // Readers have a backend already: a page on something else need not repeat it.
            let backend = "[upstream]\nurl = \"http://127.0.0.1:8000\"\n";
            let backend = if fence.contains("[upstream]") { "" } else { backend };
            std::fs::write(&file, [backend, &fence].concat()).unwrap();
            let sources = config::Sources {
                file: Some((file, config::Origin::Flag("--config"))),
                environment: Vec::new(),
                flags: Vec::new(),
            };
            let loaded = config::load(&sources);
            assert!(loaded.is_ok(), "{}: {}", path.display(), loaded.err().map(|p| p.to_string()).unwrap_or_default());
            count += 1;
        }
    }
    assert!(count > 0);
}

/// Every error code of Holdover's own, from where the sources make them.
fn error_codes() -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for file in ["answers", "control", "hygiene", "mod", "resume", "start"] {
        let source = read(format!("src/proxy/{file}.rs"));
        codes.extend(second_arguments(&source, "Problem::new("));
        codes.extend(source.split("\"code\": ").skip(1).filter_map(literal).map(str::to_owned));
    }
    let answers = read("src/proxy/answers.rs");
    codes.extend(second_arguments(&answers, "Self::new("));
    codes.extend(body(&answers, "fn upstream(").split("=> (").skip(1).filter_map(literal).map(str::to_owned));
    codes.extend(arms(&read("src/proxy/hygiene.rs"), "fn reason("));
    codes.extend(arms(&read("src/node/starts.rs"), "pub fn as_str(&self)"));
    codes.extend(arms(&read("src/principal/mod.rs"), "pub fn reason(&self)"));
    codes.extend(arms(&read("src/principal/jwt.rs"), "fn reason("));
    codes
}

#[test]
fn every_error_code_is_documented_and_every_documented_one_exists() {
    let document = read("docs/http.md");
    let rows = rows(section(&document, "## Errors"));
    let documented: BTreeSet<_> = rows.iter().flat_map(|cells| quoted(&cells[0])).collect();
    assert_eq!(documented.len(), rows.len(), "a code stands there twice");
    assert_eq!(documented, error_codes());
}

#[test]
fn the_status_answer_is_documented_field_by_field() {
    let source = read("src/proxy/control.rs");
    let fields = body(&source, "fn status_of(").lines().filter_map(|line| {
        let (name, rest) = line.trim().strip_prefix('"')?.split_once('"')?;
        rest.starts_with(':').then(|| name.to_owned())
    });
    let document = read("docs/http.md");
    let documented = rows(section(&document, "### Status")).into_iter().flat_map(|cells| quoted(&cells[0]));
    assert_eq!(documented.collect::<BTreeSet<_>>(), fields.collect());
}

#[test]
fn every_header_of_ours_is_documented() {
    let document = read("docs/http.md");
    let documented: BTreeSet<_> =
        rows(section(&document, "## The stream")).into_iter().flat_map(|cells| quoted(&cells[0])).collect();
    let source = read("src/proxy/answers.rs");
    let ours: BTreeSet<_> = source
        .split("HeaderName::from_static(")
        .skip(1)
        .filter_map(literal)
        .map(str::to_owned)
        .chain(["cache-control".to_owned()])
        .collect();
    assert_eq!(documented.iter().map(|name| name.to_ascii_lowercase()).collect::<BTreeSet<_>>(), ours);
}

#[test]
fn log_lines_in_the_documents_are_written_somewhere() {
    let sources: String = files("src", "rs").into_values().collect();
    // A message may be broken over lines in the source.
    let joined = sources.split("\\\n").map(str::trim_start).collect::<Vec<_>>().concat();
    let document = read("docs/operations.md");
    let lines: Vec<_> = rows(section(&document, "## Logs"))
        .into_iter()
        .filter(|cells| cells.len() == 3)
        .flat_map(|cells| quoted(&cells[0]))
        .collect();
    assert!(lines.len() > 10, "{lines:?}");
    for line in lines {
        assert!(joined.contains(&line), "no source writes `{line}`");
    }
}

/// Every `holdover` line in the documents' shell blocks is understood by the command line.
#[test]
fn commands_in_documents_are_understood() {
    let mut count = 0;
    for (path, text) in documents() {
        for line in fences(&text, "sh").iter().flat_map(|fence| fence.lines().map(str::to_owned).collect::<Vec<_>>()) {
            let words: Vec<_> = line.split(" #").next().unwrap_or_default().split_whitespace().collect();
            let Some(at) = words.iter().position(|word| *word == "holdover" || word.ends_with("/holdover")) else {
                continue;
            };
            // What stands behind the image of `docker run` is a command line too; `docker build -t holdover .` is none.
            if words[0] == "docker" && words[1] != "run" {
                continue;
            }
            count += 1;
            if let Err(error) = Cli::try_parse_from(&words[at..]) {
                panic!("{}: {line}: {error}", path.display());
            }
        }
        for word in code_words(&text).iter().filter(|word| word.starts_with("holdover ")) {
            let words: Vec<_> = word.split_whitespace().collect();
            // Named without what it needs, as `holdover config` is, it is still a command.
            let known = Cli::try_parse_from(&words).map_or_else(
                |error| {
                    !matches!(
                        error.kind(),
                        clap::error::ErrorKind::InvalidSubcommand | clap::error::ErrorKind::UnknownArgument
                    )
                },
                |_| true,
            );
            assert!(known || word.starts_with("holdover is "), "{}: `{word}`", path.display());
        }
    }
    assert!(count >= 4, "only {count} commands were found");
}

#[test]
fn scripts_in_documents_exist_and_can_be_run() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut scripts = BTreeSet::new();
    for text in documents().values() {
        let shell = fences(text, "sh").concat();
        let words = shell.split_whitespace().map(str::to_owned).chain(code_words(text));
        scripts.extend(words.filter_map(|word| Some(word.split(' ').next()?.strip_prefix("scripts/")?.to_owned())));
    }
    assert!(scripts.contains("demo") && scripts.contains("test"), "{scripts:?}");
    for script in scripts {
        let path = root().join("scripts").join(&script);
        let mode = std::fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions();
        assert!(mode.mode() & 0o111 != 0, "{} cannot be run", path.display());
    }
}

#[test]
fn links_lead_somewhere() {
    let anchors = |text: &str| -> BTreeSet<String> {
        let headings = text.lines().filter_map(|line| Some(line.strip_prefix('#')?.trim_start_matches('#').trim()));
        headings
            .map(|heading| {
                let kept = heading
                    .to_lowercase()
                    .chars()
                    .filter(|c| c.is_alphanumeric() || " -".contains(*c))
                    .collect::<String>();
                kept.replace(' ', "-")
            })
            .collect()
    };
    for (path, text) in documents() {
        let folder = path.parent().unwrap_or(Path::new(""));
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
            let there = if file.is_empty() { path.clone() } else { folder.join(file) };
            assert!(root().join(&there).exists(), "{}: {target}", path.display());
            if let Some(anchor) = anchor {
                assert!(anchors(&read(&there)).contains(anchor), "{}: {target}", path.display());
            }
        }
    }
}

#[test]
fn event_ids_in_documents_have_the_form_of_real_ones() {
    let mut found = 0;
    for (path, text) in documents() {
        for line in text.lines() {
            let Some((_, turn)) = line.split_once("holdover-turn: ") else { continue };
            found += 1;
            assert!(turn.parse::<TurnId>().is_ok(), "{}: {turn}", path.display());
        }
    }
    assert!(found > 0);
}

#[test]
fn the_architecture_fits_on_its_pages() {
    assert!(read("docs/ARCHITECTURE.md").lines().count() <= 150);
}

/// The pages of `docs/clients` but for their table of contents, by name.
fn client_pages() -> BTreeMap<String, String> {
    let pages = files("docs/clients", "md").into_iter();
    let name = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    pages.map(|(path, text)| (name(&path), text)).filter(|(name, _)| name != "README").collect()
}

#[test]
fn every_page_of_clients_is_in_their_table() {
    let table = rows(&read("docs/clients/README.md"));
    let linked: BTreeSet<_> = table
        .iter()
        .filter_map(|cells| cells.last()?.split("](").nth(1)?.split(".md").next())
        .map(str::to_owned)
        .collect();
    assert_eq!(linked, client_pages().into_keys().collect());
}

#[test]
fn every_profile_has_a_page() {
    let pages = client_pages();
    for profile in config::PROFILES.iter().filter(|profile| **profile != "auto") {
        let page = if *profile == "generic" { "eventsource" } else { profile };
        let text = pages.get(page).unwrap_or_else(|| panic!("docs/clients/{page}.md is missing"));
        assert!(text.contains(&format!("rofile `{profile}`")), "docs/clients/{page}.md does not name its profile");
    }
}

/// What the tests run is what readers see.
#[test]
fn snippets_stand_in_a_page_as_they_are() {
    let pages: String = client_pages().into_values().collect();
    for (folder, extension) in [("node", "mjs"), ("node", "jsx"), ("node", "html"), ("python", "py")] {
        for (path, text) in files(&format!("tests/clients/{folder}/snippets"), extension) {
            assert!(pages.contains(&format!("\n{text}```\n")), "{} stands in no page as it is", path.display());
        }
    }
}

#[test]
fn the_versions_of_clients_are_those_that_are_tested() {
    let installed = ["tests/clients/node/package.json", "tests/clients/python/requirements.in"].map(read).concat();
    let lock = read("Cargo.lock");
    let mut count = 0;
    for cells in rows(&read("docs/clients/README.md")) {
        for version in cells[1].split(", ").filter(|version| !version.is_empty()) {
            count += 1;
            let ends = ["\"", "\n"].iter().any(|end| installed.contains(&format!("{version}{end}")));
            let in_rust = cells[0].contains("(Rust)") && lock.contains(&format!("version = \"{version}\""));
            assert!(ends || in_rust, "{}: {version} is not tested", cells[0]);
        }
    }
    assert!(count > 20, "only {count} versions were found");
}
