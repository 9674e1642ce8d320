//! A plain backend on one thread: answers every request with the turn that its query orders.

use std::{
    io::Write as _,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, interval_at},
};

use super::{
    clock,
    event::{Event, Order, Template},
};

/// The running backend.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    /// Counts up at every [`Backend::finish`].
    finished: watch::Sender<u64>,
}

/// Events per write of a turn without a rate.
const BURST: u64 = 64;
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\
    transfer-encoding: chunked\r\n\r\n";

impl Backend {
    /// Starts it on a free port, in a thread that lives as long as the process.
    pub(crate) fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let finished = watch::Sender::new(0);
        let signal = finished.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("backend".into()).spawn(move || runtime.block_on(serve(listener, signal)))?;
        Ok(Self { address, finished })
    }

    /// Ends all turns that wait for it, each with an event marked as the last.
    pub(crate) fn finish(&self) {
        self.finished.send_modify(|count| *count += 1);
    }
}

async fn serve(listener: std::net::TcpListener, finished: watch::Sender<u64>) {
    let listener = TcpListener::from_std(listener).expect("the listener is non-blocking, in a runtime");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let finished = finished.clone();
                // A proxy that leaves is judged by its client.
                tokio::spawn(async move { connection(stream, finished).await.ok() });
            }
            Err(error) => {
                eprintln!("load: the backend cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves requests without bodies, one after the other.
async fn connection(mut stream: TcpStream, finished: watch::Sender<u64>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
            if head.len() > 64 << 10 {
                bail!("a request head without end");
            }
        }
        let line = std::str::from_utf8(&head)?.lines().next().unwrap_or_default();
        let path = line.split(' ').nth(1).context("a request without a path")?;
        answer(&mut stream, Order::parse(path)?, finished.subscribe()).await?;
    }
}

async fn answer(stream: &mut TcpStream, order: Order, mut finished: watch::Receiver<u64>) -> Result<()> {
    stream.write_all(HEAD).await?;
    let mut template = Template::new();
    let mut ticks = (order.rate > 0).then(|| {
        let period = Duration::from_secs(1) / order.rate;
        interval_at(Instant::now() + period.mul_f64(phase()), period)
    });
    let (mut events, mut framed) = (Vec::new(), Vec::new());
    let mut sent = 0;
    loop {
        let finish = if order.events > 0 && sent == order.events {
            finished.changed().await?;
            true
        } else if let Some(ticks) = &mut ticks {
            tokio::select! {
                _ = ticks.tick() => false,
                changed = finished.changed() => changed.map(|()| true)?,
            }
        } else {
            finished.has_changed()?
        };
        let burst = match order.events {
            _ if finish || ticks.is_some() => 1,
            0 => BURST,
            all => BURST.min(all - sent),
        };
        let mut last = false;
        events.clear();
        for n in sent + 1..=sent + burst {
            last = finish || (!order.hold && n == order.events);
            events.extend_from_slice(template.write(Event { n, sent: clock::now(), last }));
        }
        sent += burst;
        framed.clear();
        write!(framed, "{:x}\r\n", events.len())?;
        framed.extend_from_slice(&events);
        framed.extend_from_slice(if last { b"\r\n0\r\n\r\n" } else { b"\r\n" });
        stream.write_all(&framed).await?;
        if last {
            return Ok(());
        }
    }
}

/// Where in its period a stream begins: spread evenly over all streams, so that their events do not come in bursts.
fn phase() -> f64 {
    static STREAMS: AtomicU64 = AtomicU64::new(0);
    const GOLDEN: f64 = 0.618_033_988_749_895;
    (STREAMS.fetch_add(1, Ordering::Relaxed) as f64 * GOLDEN).fract()
}
