//! A Redis server that a test starts, kills, freezes and starts again.

use redis::FromRedisValue;
use tokio::task::spawn_blocking;

use super::{
    DEADLINE,
    servers::{Make, Recipe, Server},
    within,
};

/// See the module. Dropped, it is killed. What it held is gone with each process: nothing is written to disk.
pub(crate) struct Redis {
    /// Taken only while it starts.
    server: Option<Server>,
}

impl Redis {
    /// A server that answers.
    pub(crate) async fn start() -> Self {
        Self::start_of(Make::default()).await
    }

    /// The same, of any make.
    pub(crate) async fn start_of(make: Make) -> Self {
        let started = spawn_blocking(move || Recipe::new(make).alone().start());
        Self { server: Some(started.await.expect("it starts")) }
    }

    /// An address where a server can be started later.
    pub(crate) fn reserved() -> Self {
        Self { server: Some(Recipe::new(Make::default()).alone().reserve()) }
    }

    /// Starts the server again, empty, where it was before.
    pub(crate) async fn restart(&mut self) {
        let mut server = self.server.take().expect("it is there");
        let started = spawn_blocking(move || {
            server.start_again();
            server
        });
        self.server = Some(started.await.expect("it starts again"));
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it is there")
    }

    /// As Holdover's configuration names it.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}:{}/0", self.server().host, self.server().port)
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill9(&mut self) {
        self.server.as_mut().expect("it is there").kill();
    }

    /// Stops the process where it stands: connections stay open, nothing is answered.
    pub(crate) fn freeze(&self) {
        self.server().freeze();
    }

    /// Lets a frozen process go on.
    pub(crate) fn thaw(&self) {
        self.server().thaw();
    }

    /// Sends a command, over a connection of its own.
    pub(crate) async fn command<T: FromRedisValue>(&self, words: &str) -> T {
        let words: Vec<&str> = words.split(' ').collect();
        within(DEADLINE, "a reply of redis-server", self.server().command(&words)).await
    }

    /// Forgets everything.
    pub(crate) async fn flush_all(&self) {
        self.command::<()>("FLUSHALL").await;
    }

    /// The number of connections, without the one that asks.
    pub(crate) async fn connections(&self) -> usize {
        self.command::<String>("CLIENT LIST").await.lines().count() - 1
    }
}
