//! Wakes those who wait for a log to change.
//!
//! This is what an event costs after it was recorded, so it is as little as can be: a count, and one lock that is hardly ever
//! contended. A channel made for values that many threads read costs several times as much.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

/// How often a log has changed, and who waits for the next time.
#[derive(Debug, Default)]
pub(super) struct Changes {
    count: AtomicU64,
    places: Mutex<Vec<Place>>,
}

#[derive(Debug)]
enum Place {
    Free,
    /// Somebody's, who does not wait.
    Taken,
    Waiting(Waker),
}

/// Sees changes of a log. Those since it last looked count, so one that is taken before the log is read misses none.
#[derive(Debug)]
pub struct Watcher {
    changes: Arc<Changes>,
    place: usize,
    seen: u64,
}

impl Changes {
    /// The log has changed; what changed can be read already.
    pub(super) fn tell(&self) {
        self.count.fetch_add(1, Ordering::Release);
        let (mut first, mut others) = (None, Vec::new());
        for place in self.lock().iter_mut() {
            if matches!(place, Place::Waiting(_))
                && let Place::Waiting(waker) = std::mem::replace(place, Place::Taken)
            {
                // Mostly there is one, and no memory to be asked for.
                match first {
                    None => first = Some(waker),
                    Some(_) => others.push(waker),
                }
            }
        }
        first.into_iter().chain(others).for_each(Waker::wake);
    }

    pub(super) fn watch(self: &Arc<Self>) -> Watcher {
        let mut places = self.lock();
        let free = places.iter().position(|place| matches!(place, Place::Free));
        let place = free.unwrap_or_else(|| {
            places.push(Place::Free);
            places.len() - 1
        });
        places[place] = Place::Taken;
        drop(places);
        Watcher { changes: self.clone(), place, seen: self.count() }
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().expect("no code panics while it holds this lock")
    }
}

impl Watcher {
    /// Whether there was a change.
    pub fn has_changed(&self) -> bool {
        self.changes.count() != self.seen
    }

    /// What there is now is about to be looked at.
    pub fn look(&mut self) {
        self.seen = self.changes.count();
    }

    /// Waits for a change, and counts it as looked at. Cancel-safe.
    pub async fn changed(&mut self) {
        poll_fn(|context| self.poll_changed(context)).await;
    }

    fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.has_changed() {
            let mut places = self.changes.lock();
            // Whoever counted before this lock was taken may have found nobody waiting.
            if !self.has_changed() {
                match &mut places[self.place] {
                    Place::Waiting(waker) => waker.clone_from(context.waker()),
                    place => *place = Place::Waiting(context.waker().clone()),
                }
                return Poll::Pending;
            }
        }
        self.look();
        Poll::Ready(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut places = self.changes.lock();
        places[self.place] = Place::Free;
        while matches!(places.last(), Some(Place::Free)) {
            places.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, sync::atomic::AtomicUsize, task::Wake, thread};

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll(watcher: &mut Watcher, counted: &Arc<Counted>) -> bool {
        let waker = Waker::from(counted.clone());
        pin!(watcher.changed()).poll(&mut Context::from_waker(&waker)).is_ready()
    }

    #[test]
    fn everybody_who_waits_is_woken_once() {
        let changes = Arc::new(Changes::default());
        let mut watchers: Vec<_> = (0..3).map(|_| (changes.watch(), Arc::new(Counted::default()))).collect();
        for (watcher, counted) in &mut watchers {
            assert!(!poll(watcher, counted));
            assert!(!poll(watcher, counted), "nothing has changed since");
        }
        drop(watchers.remove(1));
        changes.tell();
        changes.tell();
        for (watcher, counted) in &mut watchers {
            assert_eq!(counted.0.load(Ordering::Relaxed), 1);
            assert!(watcher.has_changed());
            assert!(poll(watcher, counted));
            assert!(!poll(watcher, counted), "two changes are one reason to look");
        }
    }

    #[test]
    fn a_change_before_the_wait_counts() {
        let changes = Arc::new(Changes::default());
        let mut watcher = changes.watch();
        changes.tell();
        assert!(poll(&mut watcher, &Arc::default()));
        changes.tell();
        watcher.look();
        assert!(!poll(&mut watcher, &Arc::default()));
    }

    #[test]
    fn places_are_used_again() {
        let changes = Arc::new(Changes::default());
        let kept = changes.watch();
        for _ in 0..10 {
            drop((changes.watch(), changes.watch()));
        }
        assert_eq!(changes.lock().len(), 1);
        drop(kept);
        assert_eq!(changes.lock().len(), 0);
    }

    /// Without the second look under the lock, this hangs.
    #[test]
    fn no_change_is_missed() {
        let changes = Arc::new(Changes::default());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        const ROUNDS: u64 = 20_000;
        let turn = Arc::new(AtomicU64::new(0));
        let (told, heard) = (changes.clone(), turn.clone());
        let mut watcher = changes.watch();
        let listener = runtime.spawn(async move {
            for round in 1..=ROUNDS {
                while heard.load(Ordering::Acquire) < round * 2 - 1 {
                    watcher.changed().await;
                }
                heard.store(round * 2, Ordering::Release);
            }
        });
        let teller = thread::spawn(move || {
            for round in 1..=ROUNDS {
                turn.store(round * 2 - 1, Ordering::Release);
                told.tell();
                while turn.load(Ordering::Acquire) < round * 2 {
                    thread::yield_now();
                }
            }
        });
        runtime.block_on(listener).unwrap();
        teller.join().unwrap();
    }
}
