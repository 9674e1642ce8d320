//! The store's calls, each on its scripts and commands.

use tokio::time::{Instant, sleep};

use super::*;

#[async_trait]
impl TurnStore for RedisStore {
    fn durability(&self) -> Durability {
        self.inner.settings.durability
    }

    async fn start(&self, record: &TurnRecord, log: &Arc<Log>, session: SessionPolicy) -> Result<Started, StoreError> {
        let Inner { link, keys, own, node, .. } = &*self.inner;
        let id = &record.id;
        let key = record.session.as_ref().map(|session| &session.key);
        let mode = match session {
            _ if key.is_none() => "",
            _ if log.last() > 0 || log.head().is_some() => "again",
            SessionPolicy::Refuse => "refuse",
            SessionPolicy::Replace => "replace",
        };
        let mut enlist = cmd("SADD");
        enlist.arg(keys.turns_of(node)).arg(id.as_str());
        let mut over = None;
        if own.claim(id).is_none() {
            link.check_room(&keys.meta(id))?;
        }
        // Before it is claimed: if the reply is lost and nobody asks again, the claim is taken back with the log.
        own.insert(record, log);
        for _ in 0..ATTEMPTS {
            let start = self.inner.claim_call(record, mode, over.as_ref());
            // The set is a hint for reapers and may name too many turns, so it need not wait for the script.
            let (reply, enlisted) = tokio::join!(
                link.call::<Reply>("start", Lane::Commands, &start),
                link.call::<u64>("start", Lane::Commands, &enlist),
            );
            let reply = reply?;
            match reply.code() {
                Some(1) => {
                    own.set_claimed(record);
                    if enlisted.is_ok() {
                        own.set_listed(&[*id]);
                    }
                    return Ok(Started::Fresh);
                }
                Some(0) => {
                    self.inner.forget_own(id, &record.epoch);
                    return Ok(Started::Fenced);
                }
                Some(2) => {
                    let busy = reply.turn(1)?;
                    // The pointer may be older than the turn, or the turn older than its owner.
                    if self.inner.find(&busy).await?.is_some_and(|record| record.end.is_none()) {
                        self.inner.forget_own(id, &record.epoch);
                        return Ok(Started::Busy(busy));
                    }
                    over = Some(busy);
                }
                _ => return reply.unknown(),
            }
        }
        Err(StoreError::Unavailable("the session's running turn changes too fast".into()))
    }

    async fn set_head(&self, id: &TurnId, epoch: &Epoch, head: &Arc<Head>) -> Result<(), StoreError> {
        let inner = &self.inner;
        let keep = HEAD.on(&[inner.keys.meta(id)]).arg(&*epoch.0).arg(encode_head(head));
        let reply: Reply = inner.link.call("set_head", Lane::Commands, &keep).await?;
        inner.heed(id, &reply);
        for node in inner.own.watchers(id) {
            inner.post(Letter::To(node, Message::Look(*id)));
        }
        Ok(())
    }

    async fn append(&self, id: &TurnId, epoch: &Epoch, batch: &Batch) -> Result<Appended, StoreError> {
        let inner = &self.inner;
        let blocks = encode_blocks(&batch.blocks);
        let append = inner.append_call(id, epoch, batch, &blocks);
        let reply: Reply = inner.link.call("append", Lane::Commands, &append).await?;
        match reply.code() {
            Some(1) => {
                inner.heed(id, &reply);
                for node in inner.own.appended(id, blocks.len()) {
                    let frame = Frame { turn: *id, prev: batch.prev, blocks: blocks.clone() };
                    inner.post(frame_to(node, frame));
                }
                Ok(Appended::Applied { stop: reply.bytes(1).map(wish_of) })
            }
            Some(-1) => {
                inner.forget_own(id, epoch);
                Ok(Appended::Fenced)
            }
            Some(-2) => Ok(Appended::At(reply.seq(1)?)),
            Some(-3) => Ok(Appended::Gone),
            _ => reply.unknown(),
        }
    }

    async fn finish(&self, id: &TurnId, epoch: &Epoch, log: &Arc<Log>, end: &End) -> Result<Finished, StoreError> {
        let inner = &self.inner;
        let session = match inner.own.session(id) {
            Some(session) => session,
            None => match inner.meta(id).await? {
                Some(meta) => meta.record.session.map(|session| session.key),
                None => return Ok(Finished::Gone),
            },
        };
        let began = Instant::now();
        let reply = loop {
            let ask = began.elapsed() < ASKED.0;
            let reply = inner.write_end(id, epoch, session.as_ref(), Some(log), end, ask).await?;
            if reply.code() != Some(-4) {
                break reply;
            }
            sleep(ASKED.1).await;
        };
        let finished = match reply.code() {
            Some(1) => {
                inner.heed(id, &reply);
                if let Some(bytes) = inner.own.stored(id) {
                    inner.link.metrics.stored_turn_bytes.with_label_values(&["raw"]).observe(bytes as f64);
                }
                Finished::Applied
            }
            Some(2) => {
                inner.heed(id, &reply);
                let (outcome, reason) = (Wish::StopSoon.outcome(), Wish::StopSoon.reason().into());
                Finished::Already(End { outcome, reason, at: end.at })
            }
            Some(0) => match [1, 2, 3].map(|at| reply.bytes(at)) {
                [Some(outcome), Some(reason), Some(at)] => Finished::Already(meta::read_end(outcome, reason, at)?),
                _ => return Err(Unreadable("an ended turn without its end").into()),
            },
            Some(-2) => return Ok(Finished::At(reply.seq(1)?)),
            // A turn of another owner is none of the caller's: it finds out when it starts it again.
            Some(-1 | -3) => return Ok(Finished::Gone),
            _ => return reply.unknown(),
        };
        let written = match (reply.code(), &finished) {
            (Some(2), Finished::Already(stopped)) => Some(stopped),
            // An earlier attempt got through.
            (_, Finished::Already(other)) => Some(other).filter(|other| *other == end),
            _ => Some(end),
        };
        if let (Some(end), Some(claim)) = (written, inner.own.claim(id)) {
            inner.ended.keep(claim, log.clone(), end.clone());
            inner.seal_soon(id, epoch, log);
        }
        inner.forget_own(id, epoch);
        Ok(finished)
    }

    async fn discard(&self, record: &TurnRecord) -> Result<(), StoreError> {
        let inner = &self.inner;
        let key = record.session.as_ref().map(|session| &session.key);
        let discard =
            DISCARD.on(&inner.keys.turn_and_session(&record.id, key)).arg(&*record.epoch.0).arg(record.id.as_str());
        inner.link.call::<Reply>("discard", Lane::Commands, &discard).await?;
        inner.forget_own(&record.id, &record.epoch);
        Ok(())
    }

    async fn find(&self, id: &TurnId) -> Result<Option<TurnRecord>, StoreError> {
        self.inner.find(id).await
    }

    async fn open(&self, id: &TurnId, after: Seq) -> Result<Option<Opened>, StoreError> {
        let Some(record) = self.inner.find(id).await? else { return Ok(None) };
        let log = self.inner.mirror(&record, after);
        Ok(Some(Opened { record, log }))
    }

    async fn session(&self, key: &Digest) -> Result<Option<TurnId>, StoreError> {
        let mut get = cmd("HMGET");
        get.arg(self.inner.keys.session(key)).arg("run").arg("last");
        let [run, last]: [Option<String>; 2] = self.inner.link.call("session", Lane::Commands, &get).await?;
        for id in [run, last].into_iter().flatten() {
            let id = read_turn(id.as_bytes())?;
            // The pointer may outlive the turn.
            if self.inner.find(&id).await?.is_some() {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    async fn request_stop(&self, id: &TurnId, wish: Wish) -> Result<StopRequested, StoreError> {
        let inner = &self.inner;
        let stop = STOP.on(&[inner.keys.meta(id)]).arg(wish.as_str());
        let reply: Reply = inner.link.call("stop", Lane::Commands, &stop).await?;
        let owner = match (reply.code(), reply.node(1)) {
            (Some(0), _) => return Ok(StopRequested::NotRunning),
            (Some(1), Some(owner)) => owner,
            _ => return reply.unknown(),
        };
        if owner == inner.node {
            inner.announce(StoreEvent::Stop(*id, wish));
            return Ok(StopRequested::Told);
        }
        if !inner.is_there(&owner).await? {
            return Ok(StopRequested::OwnerUnreachable);
        }
        let mut tell = cmd("PUBLISH");
        tell.arg(inner.keys.inbox(&owner)).arg(Message::Stop(*id, wish).encode());
        inner.link.call::<u64>("stop", Lane::Commands, &tell).await?;
        Ok(StopRequested::Told)
    }

    async fn ask_stop(&self, record: &TurnRecord, asked: bool) -> Result<(), StoreError> {
        let inner = &self.inner;
        let note = ASK.on(&[inner.keys.meta(&record.id)]).arg(if asked { "1" } else { "" });
        inner.link.call::<Reply>("stop", Lane::Commands, &note).await?;
        let mut tell = cmd("PUBLISH");
        tell.arg(inner.keys.inbox(&record.node)).arg(Message::Ask(record.id, asked).encode());
        inner.link.call::<u64>("stop", Lane::Commands, &tell).await?;
        Ok(())
    }

    async fn claim(&self, key: &Digest, value: &TurnId, ttl: Duration) -> Result<TurnId, StoreError> {
        let key = self.inner.keys.note(key);
        let mut claim = pipe();
        claim.cmd("SET").arg(&key).arg(value.as_str()).arg("NX").arg("PX").arg(millis(ttl).max(1));
        claim.cmd("GET").arg(&key);
        for _ in 0..ATTEMPTS {
            let (_, there): (Value, Option<String>) = self.inner.link.call("claim", Lane::Commands, &claim).await?;
            // What was there may have expired between the two.
            if let Some(there) = there {
                return read_turn(there.as_bytes());
            }
        }
        Err(StoreError::Unavailable("notes expire as soon as they are made".into()))
    }

    async fn note(&self, key: &Digest, value: &TurnId, ttl: Duration) -> Result<(), StoreError> {
        let mut set = cmd("SET");
        set.arg(self.inner.keys.note(key)).arg(value.as_str()).arg("PX").arg(millis(ttl).max(1));
        self.inner.link.call("note", Lane::Commands, &set).await
    }

    async fn noted(&self, key: &Digest) -> Result<Option<TurnId>, StoreError> {
        let mut get = cmd("GET");
        get.arg(self.inner.keys.note(key));
        let noted: Option<String> = self.inner.link.call("noted", Lane::Commands, &get).await?;
        noted.map(|text| read_turn(text.as_bytes())).transpose()
    }

    async fn shared_secret(&self, proposed: [u8; 32]) -> Result<[u8; 32], StoreError> {
        let key = self.inner.keys.secret();
        let mut get = cmd("GET");
        get.arg(&key);
        let mut set = cmd("SET");
        set.arg(&key).arg(&proposed).arg("NX");
        // A full server still tells the secret that is there.
        let mut there: Option<Vec<u8>> = self.inner.link.call("secret", Lane::Commands, &get).await?;
        if there.is_none() {
            self.inner.link.call::<Option<String>>("secret", Lane::Commands, &set).await?;
            there = self.inner.link.call("secret", Lane::Commands, &get).await?;
        }
        let secret = there.and_then(|secret| secret.try_into().ok());
        let secret = secret.ok_or(Unreadable("a shared secret that is not 32 bytes"))?;
        *self.inner.known_secret() = Some(secret);
        Ok(secret)
    }

    async fn next_event(&self) -> StoreEvent {
        match self.events.lock().await.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    async fn health(&self) -> Health {
        self.inner.health().await
    }

    /// What is dropped here is still in Redis.
    fn shed(&self, bytes: u64) -> usize {
        self.inner.ended.shed(&self.inner.budget, bytes);
        0
    }

    async fn leave(&self) {
        // No beat may follow.
        self.live.abort();
        let mut delete = cmd("DEL");
        delete.arg(self.inner.keys.node(&self.inner.node));
        if let Err(error) = self.inner.link.call::<u64>("leave", Lane::Commands, &delete).await {
            tracing::debug!(%error, "could not say good-bye; the other nodes wait for the lease to end");
        }
    }
}
