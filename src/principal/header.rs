//! Identities that stand in a header as they are.

use http::{HeaderMap, HeaderName, header};
use memchr::memchr;

use super::IdentityError;

/// The value of a header, its bytes untouched; `None` if it is absent or blank, so that an empty value never becomes an
/// identity many share.
///
/// # Errors
///
/// [`IdentityError::Ambiguous`] if the header has several lines: backends disagree on which of them counts, or join them.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, IdentityError> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (_, Some(_)) => Err(IdentityError::Ambiguous),
        (line, None) => Ok(line.map(|line| line.as_bytes()).filter(|value| !value.trim_ascii().is_empty())),
    }
}

/// The value of a cookie; `None` if it is absent or empty. Names are case-sensitive (RFC 6265 §5.3), and HTTP/2 clients
/// spread cookies over several lines (RFC 9113 §8.2.3).
///
/// # Errors
///
/// [`IdentityError::Ambiguous`] if the cookie occurs with two different values: a neighbour domain can plant a second one,
/// and only the backend knows which of them it believes.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a [u8]>, IdentityError> {
    let mut found = None;
    for pair in headers.get_all(header::COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';')) {
        let Some(equals) = memchr(b'=', pair) else { continue };
        let (key, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        if key != name.as_bytes() {
            continue;
        }
        if found.replace(value).is_some_and(|before| before != value) {
            return Err(IdentityError::Ambiguous);
        }
    }
    Ok(found.filter(|value| !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn cookies(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (header::COOKIE, HeaderValue::from_str(line).unwrap())).collect()
    }

    #[test]
    fn a_cookie_is_found_by_its_exact_name() {
        let found = |lines: &[&str]| {
            let headers = cookies(lines);
            cookie(&headers, "sid").map(|value| value.map(|value| String::from_utf8(value.to_vec()).unwrap()))
        };
        let ok = |value: &str| Ok(Some(value.to_owned()));
        assert_eq!(found(&["sid=1"]), ok("1"));
        assert_eq!(found(&["a=b; sid=1;c=d"]), ok("1"));
        assert_eq!(found(&["a=b", "c=d;  sid=1  "]), ok("1"));
        assert_eq!(found(&["sid=a=b=="]), ok("a=b=="));
        assert_eq!(found(&["sid=\"q\""]), ok("\"q\""));
        assert_eq!(found(&["SID=1; xsid=2; sidx=3; sid; =sid; a=sid=1"]), Ok(None));
        assert_eq!(found(&["sid="]), Ok(None));
        assert_eq!(found(&[""]), Ok(None));
        assert_eq!(found(&[]), Ok(None));
    }

    #[test]
    fn a_cookie_with_two_values_names_nobody() {
        for lines in [&["sid=1; sid=2"][..], &["sid=1", "sid=2"], &["sid=; sid=1"], &["sid=1; sid="]] {
            assert_eq!(cookie(&cookies(lines), "sid"), Err(IdentityError::Ambiguous), "{lines:?}");
        }
        assert_eq!(cookie(&cookies(&["sid=1; sid=1"]), "sid"), Ok(Some(&b"1"[..])));
    }

    #[test]
    fn a_header_is_taken_as_it_is_and_only_once() {
        let name = HeaderName::from_static("x-user");
        let mut headers = HeaderMap::new();
        assert_eq!(single(&headers, &name), Ok(None));
        headers.insert(&name, HeaderValue::from_static("  "));
        assert_eq!(single(&headers, &name), Ok(None));
        headers.insert(&name, HeaderValue::from_bytes(b"Al\xefce ").unwrap());
        assert_eq!(single(&headers, &name), Ok(Some(&b"Al\xefce "[..])));
        headers.append(&name, HeaderValue::from_static(""));
        assert_eq!(single(&headers, &name), Err(IdentityError::Ambiguous));
    }
}
