//! How one family of clients resumes: where its session stands in a request.

mod session;

pub use session::session_name;
