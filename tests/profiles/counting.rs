//! A program that plays backend, keeps count of its turns, and waits within one until it is told to go on.

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::{Program, Script, eventually};

/// A backend of `tests/clients` that counts its turns and can be made to wait within one.
pub(super) struct Counting {
    _program: Program,
    pub(super) address: SocketAddr,
    http: reqwest::Client,
}

impl Counting {
    pub(super) async fn start(script: Script) -> Self {
        let (program, address) = script.listening().await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { _program: program, address, http }
    }

    pub(super) async fn stats(&self) -> Value {
        let page = self.http.get(format!("http://{}/stats", self.address)).send().await.unwrap();
        page.json().await.unwrap()
    }

    /// Waits until it has counted so many turns: started, finished, left by their client. Nobody may ever have bothered it
    /// with an event id of ours.
    pub(super) async fn counts(&self, started: u64, finished: u64, aborted: u64) {
        let stats = eventually(format!("{started} started, {finished} finished, {aborted} aborted"), || async {
            let stats = self.stats().await;
            let [now, ended, left] = ["started", "finished", "aborted"].map(|name| stats[name].as_u64().unwrap());
            assert!(now <= started && ended <= finished && left <= aborted, "{stats}");
            ((now, ended, left) == (started, finished, aborted)).then_some(stats)
        });
        assert_eq!(stats.await["last_event_ids"], Value::Array(Vec::new()));
    }

    /// Waits until so many turns wait.
    pub(super) async fn waits(&self, turns: u64) {
        eventually(format!("{turns} turns to wait"), || async {
            (self.stats().await["waiting"] == turns).then_some(())
        })
        .await;
    }

    /// All turns that wait go on.
    pub(super) async fn go(&self) {
        self.http.post(self.gate()).send().await.unwrap();
    }

    /// Where they are told to.
    pub(super) fn gate(&self) -> String {
        format!("http://{}/go", self.address)
    }
}
