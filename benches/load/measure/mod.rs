//! The measures. Each one checks every event it meets.

mod live;
mod resume;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

pub(crate) use self::{
    live::{Ceiling, Load, Loaded, ceiling, fan_out, idle, load},
    resume::{REPLAYED, Replayed, reconnect, replay, replay_elsewhere, replay_to_many},
};
use super::{
    client::{Request, Stream},
    clock,
    event::{Event, Order},
    system::System,
};

/// Times in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// What the clients of one load have got.
#[derive(Default)]
struct Tally {
    /// Streams whose first event is there.
    begun: Cell<usize>,
    delivered: Cell<u64>,
    recording: Cell<bool>,
    /// Nanoseconds, while recording.
    latencies: RefCell<Vec<u64>>,
}

/// How long all streams together may take to begin, or to end: a system that is behind has a queue to work off.
const PATIENCE: Duration = Duration::from_secs(60);
/// Clients that come at once: a crowd, not a flood, so that no accept queue overflows.
const CROWD: usize = 50;
/// Between the begin of the last stream and the measurement.
const SETTLE: Duration = Duration::from_millis(300);

impl Tally {
    fn take(&self, event: &Event) {
        self.delivered.set(self.delivered.get() + 1);
        if self.recording.get() {
            self.latencies.borrow_mut().push(clock::now() - event.sent);
        }
    }
}

impl Quantiles {
    /// Of times in nanoseconds; at least one.
    fn of(mut nanos: Vec<u64>) -> Self {
        nanos.sort_unstable();
        let at = |share: f64| nanos[((nanos.len() - 1) as f64 * share).round() as usize] as f64 / 1e3;
        Self { p50_us: at(0.5), p99_us: at(0.99) }
    }
}

/// Starts a turn and waits for its first event.
pub(crate) async fn begin(system: &System, order: Order) -> Result<(String, Stream)> {
    let mut stream = Request::new(order.path()).open(system.address).await?.in_bulk();
    let turn = stream.turn.clone().context("the answer does not name its turn")?;
    let wanted = if order.hold { order.events } else { 1 };
    while stream.n() < wanted && stream.read(|_| {}).await? {}
    Ok((turn, stream))
}

/// Starts a client for each request and waits until each has an event.
async fn follow_many(system: &System, requests: Vec<Request>) -> Result<(JoinSet<Result<()>>, Rc<Tally>)> {
    let tally = Rc::new(Tally::default());
    let mut clients = JoinSet::new();
    let streams = requests.len();
    for (n, request) in requests.into_iter().enumerate() {
        clients.spawn_local(follow(system.address, request, tally.clone()));
        if n % CROWD == CROWD - 1 {
            sleep(Duration::from_millis(5)).await;
        }
    }
    let begun = async {
        while tally.begun.get() < streams {
            if let Some(ended) = clients.try_join_next() {
                ended??;
                bail!("a stream ended while the others began");
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    };
    timeout(PATIENCE, begun).await.with_context(|| {
        format!("{}: only {} of {streams} streams have begun", system.kind.name(), tally.begun.get())
    })??;
    Ok((clients, tally))
}

async fn follow(address: std::net::SocketAddr, request: Request, tally: Rc<Tally>) -> Result<()> {
    let mut stream = request.open(address).await?;
    let (mut more, mut first) = (true, true);
    while more {
        more = stream
            .read(|event| {
                if std::mem::take(&mut first) {
                    tally.begun.set(tally.begun.get() + 1);
                }
                tally.take(event);
            })
            .await?;
    }
    Ok(())
}

async fn join(clients: &mut JoinSet<Result<()>>) -> Result<()> {
    let all = async {
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        Ok(())
    };
    timeout(PATIENCE, all).await.context("streams do not end")?
}
