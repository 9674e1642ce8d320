//! Writes a turn to the socket of a client of HTTP/1.1, from a task of its own.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, ErrorKind, IoSlice, Write as _},
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Version;
use pingora::{Error, ErrorType, OrErr as _, Result, proxy::Session};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use super::WRITE;
use crate::{
    listener::Socket,
    node::{Delivery, Follow},
};

/// Pieces in one call of the kernel, which takes a thousand.
const PIECES: usize = 64;

/// The longest line that begins a chunk.
const HEAD: usize = 2 * size_of::<usize>() + END.len();
/// How that line ends, and the chunk.
const END: &[u8] = b"\r\n";

/// What is written between the head of an answer, which the session has written, and its end, which the session will.
pub(super) struct Direct {
    socket: Arc<TcpStream>,
    /// How long a write of [`WRITE`] bytes may take.
    limit: Option<Duration>,
}

impl Direct {
    /// For an answer in chunks whose client has sent all of its request.
    pub(super) fn of(session: &Session) -> Option<Self> {
        let chunked = session.req_header().version == Version::HTTP_11;
        let http1 = session.as_downstream().as_http1().filter(|_| chunked)?;
        let socket = (**http1.stream()).as_any().downcast_ref::<Socket>()?;
        Some(Self { socket: socket.shared(), limit: http1.get_write_timeout() })
    }

    /// Follows the turn until something else than data is to be delivered. Dropped, it ends.
    pub(super) async fn deliver(self, follow: Follow) -> Result<Delivery> {
        let mut task = JoinSet::new();
        task.spawn(self.run(follow));
        let ended = task.join_next().await.expect("a task was spawned");
        ended.or_err(ErrorType::InternalError, "a delivery was not carried out")?
    }

    async fn run(self, mut follow: Follow) -> Result<Delivery> {
        loop {
            let delivery = tokio::select! {
                // Where there is something to write, nobody looks whether the client is still there: writing tells.
                biased;
                delivery = follow.next() => delivery,
                error = self.left() => return Err(error.into_down()),
            };
            match delivery {
                Delivery::Data(pieces) if matches!(&pieces[..], [piece] if piece.len() <= WRITE) => {
                    self.write(&pieces).await?;
                }
                Delivery::Data(pieces) => {
                    let mut pieces = VecDeque::from(pieces);
                    while !pieces.is_empty() {
                        self.write(&front(&mut pieces)).await?;
                    }
                }
                other => return Ok(other),
            }
        }
    }

    /// Writes these pieces as one chunk.
    async fn write(&self, pieces: &[Bytes]) -> Result<()> {
        if pieces.iter().all(Bytes::is_empty) {
            // An empty chunk would be the end.
            return Ok(());
        }
        let mut chunk = Chunk::of(pieces);
        // Hardly ever is there no room, so no clock is started before that.
        if chunk.write(&self.socket).map_err(broken)? {
            return Ok(());
        }
        let rest = poll_fn(|context| {
            loop {
                ready!(self.socket.poll_write_ready(context))?;
                if chunk.write(&self.socket)? {
                    return Poll::Ready(Ok(()));
                }
            }
        });
        let written = match self.limit {
            None => rest.await,
            Some(limit) => match timeout(limit, rest).await {
                Ok(written) => written,
                Err(_) => {
                    let why = "the client does not take what is sent";
                    return Err(Error::explain(ErrorType::WriteTimedout, why).into_down());
                }
            },
        };
        written.map_err(broken)
    }

    /// Waits until the client closes its side, or sends what nobody asked for.
    async fn left(&self) -> Box<Error> {
        poll_fn(|context| {
            loop {
                let read = match ready!(self.socket.poll_read_ready(context)) {
                    Ok(()) => self.socket.try_read(&mut [0]),
                    Err(error) => Err(error),
                };
                return Poll::Ready(match read {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => Error::because(ErrorType::ReadError, "waiting for the client to leave", error),
                    Ok(0) => Error::explain(ErrorType::ConnectionClosed, "the client left"),
                    Ok(_) => Error::explain(ErrorType::ConnectError, "more came than the request"),
                });
            }
        })
        .await
    }
}

fn broken(error: io::Error) -> Box<Error> {
    Error::because(ErrorType::WriteError, "writing events", error).into_down()
}

/// Takes what one write may have from the front.
fn front(pieces: &mut VecDeque<Bytes>) -> Vec<Bytes> {
    let (mut taken, mut room) = (Vec::new(), WRITE);
    while room > 0
        && taken.len() < PIECES
        && let Some(mut piece) = pieces.pop_front()
    {
        if piece.len() > room {
            pieces.push_front(piece.split_off(room));
        }
        room -= piece.len();
        taken.push(piece);
    }
    taken
}

/// A chunk (RFC 9112 §7.1), and how much of it is written.
struct Chunk<'a> {
    head: [u8; HEAD],
    head_len: usize,
    pieces: &'a [Bytes],
    written: usize,
}

impl<'a> Chunk<'a> {
    fn of(pieces: &'a [Bytes]) -> Self {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let mut head = [0; HEAD];
        let mut room = &mut head[..];
        write!(room, "{length:x}\r\n").expect("the longest length fits");
        let head_len = HEAD - room.len();
        Self { head, head_len, pieces, written: 0 }
    }

    /// Writes what there is room for. `true`: that was all.
    fn write(&mut self, socket: &TcpStream) -> io::Result<bool> {
        loop {
            let head = IoSlice::new(&self.head[..self.head_len]);
            let end = IoSlice::new(END);
            let (few, many);
            let whole: &[IoSlice<'_>] = match self.pieces {
                [piece] => {
                    few = [head, IoSlice::new(piece), end];
                    &few
                }
                pieces => {
                    let slices = pieces.iter().map(|piece| IoSlice::new(piece));
                    many = std::iter::once(head).chain(slices).chain([end]).collect::<Vec<_>>();
                    &many
                }
            };
            let length: usize = whole.iter().map(|slice| slice.len()).sum();
            let written = if self.written == 0 {
                socket.try_write_vectored(whole)
            } else {
                let mut rest = whole.to_vec();
                let mut rest = &mut rest[..];
                IoSlice::advance_slices(&mut rest, self.written);
                socket.try_write_vectored(rest)
            };
            match written {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(more) => self.written += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            if self.written == length {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;

    #[test]
    fn a_write_takes_so_many_bytes_and_pieces_and_loses_none() {
        for sizes in [vec![1; 200], vec![WRITE, 1], vec![3 * WRITE + 5], vec![WRITE - 1, 5, 5], vec![5, WRITE * 2, 5]] {
            let pieces: Vec<Bytes> = sizes.iter().enumerate().map(|(at, size)| vec![at as u8; *size].into()).collect();
            let mut left = VecDeque::from(pieces.clone());
            let mut all = Vec::new();
            while !left.is_empty() {
                let taken = front(&mut left);
                assert!(taken.len() <= PIECES && !taken.is_empty());
                assert!((1..=WRITE).contains(&taken.concat().len()));
                all.extend(taken);
            }
            assert!(all.concat() == pieces.concat(), "{sizes:?}");
        }
    }

    /// The reader takes little at a time, so that a chunk is written in many parts.
    #[tokio::test]
    async fn a_chunk_is_whole_however_it_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        socket2::SockRef::from(&socket).set_send_buffer_size(4096).unwrap();
        socket2::SockRef::from(&client).set_recv_buffer_size(4096).unwrap();
        let pieces: Vec<Bytes> = (0..40_u8).map(|at| vec![at; 5000 * usize::from(at % 3)].into()).collect();
        let expected = [format!("{:x}\r\n", pieces.concat().len()).as_bytes(), &pieces.concat(), b"\r\n"].concat();
        let direct = Direct { socket: Arc::new(socket), limit: Some(Duration::from_secs(60)) };
        let writing = async {
            direct.write(&pieces).await.unwrap();
            direct.write(&["one piece".into()]).await.unwrap();
        };
        let reading = async {
            let mut all = vec![0; expected.len()];
            for part in all.chunks_mut(777) {
                client.read_exact(part).await.unwrap();
            }
            assert!(all == expected);
            let mut next = [0; 14];
            client.read_exact(&mut next).await.unwrap();
            assert_eq!(&next, b"9\r\none piece\r\n");
        };
        tokio::join!(writing, reading);
    }
}
