//! Which paths a route takes.

use std::{borrow::Cow, fmt, str::FromStr};

use percent_encoding::percent_decode_str;

/// A path prefix on segment bounds, with `{name}` for a segment of any content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathPattern {
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Param(String),
}

/// What the `{name}` segments of a pattern captured, percent-decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathParams(Vec<(String, String)>);

impl PathPattern {
    /// What is captured from a path (without query), if the pattern takes it.
    ///
    /// Segments are compared percent-decoded, so `/api/%63hat` is `/api/chat` here as it is for most backends; an
    /// encoded slash does not end a segment. A `{name}` takes no empty segment.
    pub fn matches(&self, path: &str) -> Option<PathParams> {
        let mut given = path.strip_prefix('/')?.split('/');
        let mut params = PathParams::default();
        for segment in &self.segments {
            let value = decode(given.next()?);
            match segment {
                Segment::Literal(literal) if *literal == value => {}
                Segment::Param(name) if !value.is_empty() => params.0.push((name.clone(), value.into_owned())),
                Segment::Literal(_) | Segment::Param(_) => return None,
            }
        }
        Some(params)
    }

    /// Whether every path that another pattern takes is taken by this one, too.
    pub fn covers(&self, other: &Self) -> bool {
        self.segments.len() <= other.segments.len()
            && self.segments.iter().zip(&other.segments).all(|(ours, theirs)| match ours {
                Segment::Param(_) => *theirs != Segment::Literal(String::new()),
                Segment::Literal(_) => ours == theirs,
            })
    }

    /// Names of its `{name}` segments.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Param(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }
}

impl FromStr for PathPattern {
    /// What is wrong, in words.
    type Err = String;

    /// A slash at the end says nothing and is left out.
    fn from_str(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix('/').ok_or("a path begins with a slash")?;
        let path = path.strip_suffix('/').unwrap_or(path);
        let mut pattern = Self::default();
        if path.is_empty() {
            return Ok(pattern);
        }
        for segment in path.split('/') {
            let segment = match segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                Some(name) if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => {
                    return Err("the name in braces is made of letters, digits and _".to_owned());
                }
                Some(name) if pattern.params().any(|known| known == name) => {
                    return Err(format!("`{{{name}}}` stands in the path twice"));
                }
                Some(name) => Segment::Param(name.to_owned()),
                None if segment.is_empty() => return Err("the path has an empty segment".to_owned()),
                None if matches!(segment, "." | "..") => return Err("the path has a dot segment".to_owned()),
                None if segment.contains(['{', '}']) => {
                    return Err("braces stand for a whole segment, as in \"/threads/{thread}/runs\"".to_owned());
                }
                None if segment.contains(['?', '#', '*']) || segment.chars().any(|c| c.is_control() || c == ' ') => {
                    return Err("a path is a plain prefix, without query, `*` or spaces".to_owned());
                }
                None => Segment::Literal(decode(segment).into_owned()),
            };
            pattern.segments.push(segment);
        }
        Ok(pattern)
    }
}

impl PathParams {
    /// The segment captured under a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segments.is_empty() {
            return f.write_str("/");
        }
        self.segments.iter().try_for_each(|segment| match segment {
            Segment::Literal(literal) => write!(f, "/{literal}"),
            Segment::Param(name) => write!(f, "/{{{name}}}"),
        })
    }
}

fn decode(segment: &str) -> Cow<'_, str> {
    percent_decode_str(segment).decode_utf8().unwrap_or(Cow::Borrowed(segment))
}
