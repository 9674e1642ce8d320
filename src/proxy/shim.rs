//! The fetch shim, as files for browsers. They are built from `clients/js` and checked in there; a test builds them again.
//!
//! They are the same for everybody: no identity is asked for, and pages of every origin may load them.

use bytes::Bytes;
use http::{
    HeaderName, Method, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use pingora::{Result, http::ResponseHeader, proxy::Session};
use ring::digest::{SHA256, digest};

use super::{
    answers::{self, Problem, insert},
    body,
};

/// What may be loaded by pages that are isolated from other origins (Fetch, "Cross-Origin-Resource-Policy").
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// The widest scope that a service worker may ask for. By default it is the folder of its script.
const SERVICE_WORKER_ALLOWED: HeaderName = HeaderName::from_static("service-worker-allowed");

const SCRIPT: &str = "text/javascript; charset=utf-8";
/// No browser asks for it; editors and Deno do.
const TYPES: &str = "application/typescript; charset=utf-8";

/// A file below the base path.
pub(super) struct File {
    path: &'static str,
    kind: &'static str,
    content: &'static [u8],
}

static FILES: [File; 4] = [
    File { path: "/resume.js", kind: SCRIPT, content: include_bytes!("../../clients/js/dist/resume.js") },
    File {
        path: "/resume.classic.js",
        kind: SCRIPT,
        content: include_bytes!("../../clients/js/dist/resume.classic.js"),
    },
    File { path: WORKER, kind: SCRIPT, content: include_bytes!("../../clients/js/dist/resume-sw.js") },
    File { path: "/resume.d.ts", kind: TYPES, content: include_bytes!("../../clients/js/dist/resume.d.ts") },
];

const WORKER: &str = "/resume-sw.js";

/// The file at a path below the base path.
pub(super) fn file(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

impl File {
    /// Answers a request for it.
    pub(super) async fn serve(&self, session: &mut Session) -> Result<()> {
        body::discard(session).await?;
        let request = session.req_header();
        let head_only = match request.method {
            Method::GET => false,
            Method::HEAD => true,
            _ => {
                let message = "This URL takes GET, HEAD.";
                let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
                return answers::problem(session, &problem.allow("GET, HEAD")).await;
            }
        };
        let tag = self.tag();
        let known = request.headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let unchanged = known.flat_map(|value| value.split(',')).any(|known| {
            let known = known.trim();
            known == "*" || known.trim_start_matches("W/") == tag
        });
        let status = if unchanged { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
        let mut header = ResponseHeader::build(status, Some(10))?;
        insert(&mut header, ETAG, &tag);
        // Any version works with any node: an hour of an old one does no harm.
        insert(&mut header, CACHE_CONTROL, "public, max-age=3600");
        insert(&mut header, ACCESS_CONTROL_ALLOW_ORIGIN, "*");
        insert(&mut header, CROSS_ORIGIN_RESOURCE_POLICY, "cross-origin");
        insert(&mut header, X_CONTENT_TYPE_OPTIONS, "nosniff");
        if self.path == WORKER {
            insert(&mut header, SERVICE_WORKER_ALLOWED, "/");
        }
        if unchanged {
            return session.write_response_header(Box::new(header), true).await;
        }
        insert(&mut header, CONTENT_TYPE, self.kind);
        insert(&mut header, CONTENT_LENGTH, &self.content.len().to_string());
        session.write_response_header(Box::new(header), head_only).await?;
        if !head_only {
            session.write_response_body(Some(Bytes::from_static(self.content)), true).await?;
        }
        Ok(())
    }

    fn tag(&self) -> String {
        let digest = digest(&SHA256, self.content);
        format!("\"{}\"", data_encoding::HEXLOWER.encode(&digest.as_ref()[..8]))
    }
}
