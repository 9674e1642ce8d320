//! A deliberately plain agent backend and a chat page, to show what Holdover adds to an API that does nothing for it.
//!
//! The backend is what operators have today: it streams an answer with a tool call, knows neither event ids nor resume,
//! and aborts the turn when its client leaves. The page talks to it directly and through Holdover, so that the same cut can
//! be seen from both sides, and once more with a library that knows nothing of either, on the fetch shim.
//!
//! | part | responsibility |
//! |---|---|
//! | `backend` | HTTP: routes, bad input, the paced stream, the client that leaves |
//! | `answer` | what the agent says |
//! | `ai_sdk` | the same in the AI SDK's dialect |
//! | `tally` | how many turns began, finished and were aborted |
//! | `page/` | the chat page, embedded in the binary; `page/chat.js` is built from `chat/` |

mod ai_sdk;
mod answer;
mod backend;
mod tally;
#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use crate::listener::{Connections, Listener};

/// The plain agent backend, bound but not yet serving.
pub struct Backend {
    listener: Listener,
}

impl Backend {
    /// Binds `address`; port 0 takes a free one. Connections wait in the accept queue until [`Backend::serve`].
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: Listener::bind(address).await? })
    }

    /// Where the backend can be reached: the bound address, with loopback in place of "any interface".
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Serves until `shutdown` turns true or its sender is gone, then drops every connection. A turn that still runs
    /// then counts as aborted: whoever drains a proxy in front stops the backend last.
    pub async fn serve(self, shutdown: watch::Receiver<bool>) {
        let app = Arc::new(backend::App::new(self.address()));
        self.listener.serve(app, Connections::default(), shutdown.clone(), shutdown).await;
    }
}
