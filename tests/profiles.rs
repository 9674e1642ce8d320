//! How each family of clients resumes: the real library, a backend of its dialect that stops when its client leaves and
//! knows nothing of resuming, and what breaks between them.

mod ai_sdk;
mod components;
mod tanstack;

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::{Program, Script, eventually};

/// A backend of `tests/clients` that counts its turns and can be made to wait within one.
struct Counting {
    _program: Program,
    address: SocketAddr,
    http: reqwest::Client,
}

impl Counting {
    async fn start(script: Script) -> Self {
        let (program, address) = script.listening().await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { _program: program, address, http }
    }

    async fn stats(&self) -> Value {
        let page = self.http.get(format!("http://{}/stats", self.address)).send().await.unwrap();
        page.json().await.unwrap()
    }

    /// Waits until it has counted so many turns: started, finished, left by their client. Nobody may ever have bothered it
    /// with an event id of ours.
    async fn counts(&self, started: u64, finished: u64, aborted: u64) {
        let stats = eventually(format!("{started} started, {finished} finished, {aborted} aborted"), || async {
            let stats = self.stats().await;
            let [now, ended, left] = ["started", "finished", "aborted"].map(|name| stats[name].as_u64().unwrap());
            assert!(now <= started && ended <= finished && left <= aborted, "{stats}");
            ((now, ended, left) == (started, finished, aborted)).then_some(stats)
        });
        assert_eq!(stats.await["last_event_ids"], Value::Array(Vec::new()));
    }

    /// Waits until so many turns wait.
    async fn waits(&self, turns: u64) {
        eventually(format!("{turns} turns to wait"), || async {
            (self.stats().await["waiting"] == turns).then_some(())
        })
        .await;
    }

    /// All turns that wait go on.
    async fn go(&self) {
        self.http.post(self.gate()).send().await.unwrap();
    }

    /// Where they are told to.
    fn gate(&self) -> String {
        format!("http://{}/go", self.address)
    }
}
