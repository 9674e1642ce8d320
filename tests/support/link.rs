//! A TCP proxy whose quality a test decides: quick, slow, silent, or not there.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// What a connection through the link is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quality {
    /// As if it were not there.
    Good,
    /// Everything takes so much longer, in each direction.
    Slow(Duration),
    /// Connections are made and stay open, but nothing passes.
    Silent,
    /// Connections that are there are reset, and so are new ones.
    Gone,
}

/// See the module. Dropped, it closes its connections.
pub(crate) struct Link {
    address: SocketAddr,
    quality: watch::Sender<Quality>,
    _serving: JoinSet<()>,
}

impl Link {
    /// A good link to `target`.
    pub(crate) async fn to(target: SocketAddr) -> Self {
        Self::at(Ipv4Addr::LOCALHOST, target).await
    }

    /// The same, for those who are not on this machine's loopback.
    pub(crate) async fn at(host: Ipv4Addr, target: SocketAddr) -> Self {
        let listener = TcpListener::bind((host, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (quality, watched) = watch::channel(Quality::Good);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(pass(client, target, watched.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, quality, _serving: serving }
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub(crate) fn set(&self, quality: Quality) {
        self.quality.send_replace(quality);
    }
}

async fn pass(client: TcpStream, target: SocketAddr, mut quality: watch::Receiver<Quality>) {
    let is_gone = |quality: &Quality| *quality == Quality::Gone;
    let _ = client.set_zero_linger();
    if is_gone(&quality.borrow()) {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let watched = quality.clone();
    tokio::select! {
        () = one_way(from_client, to_server, watched.clone()) => {}
        () = one_way(from_server, to_client, watched) => {}
        _ = quality.wait_for(is_gone) => {}
    }
}

/// Passes on until either side is done. What is on its way is delayed, not thinned out.
async fn one_way(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut quality: watch::Receiver<Quality>) {
    let (sender, mut on_its_way) = mpsc::channel::<(Instant, Bytes)>(1024);
    let delay = quality.clone();
    let reading = async move {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let later = if let Quality::Slow(delay) = *delay.borrow() { delay } else { Duration::ZERO };
            if sender.send((Instant::now() + later, Bytes::copy_from_slice(&buffer[..length]))).await.is_err() {
                break;
            }
        }
    };
    let writing = async {
        while let Some((due, bytes)) = on_its_way.recv().await {
            sleep_until(due).await;
            if quality.wait_for(|quality| *quality != Quality::Silent).await.is_err()
                || to.write_all(&bytes).await.is_err()
            {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}
