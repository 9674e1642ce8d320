//! A timer that is cheap to wait for again and again.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Rings at an instant. A task that waits for many things looks at each of them whenever it wakes; tokio's own timer takes part
/// in that with a few locked writes to memory that is seldom at hand. This one is asked once, and then only the clock.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: Pin<Box<Sleep>>,
    at: Instant,
    /// Whom the timer will wake.
    asked: Option<Waker>,
}

impl Alarm {
    pub(super) fn at(at: Instant) -> Self {
        Self { timer: Box::pin(sleep_until(at)), at, asked: None }
    }

    /// When it rings or rang.
    pub(super) fn deadline(&self) -> Instant {
        self.at
    }

    /// Whether it has rung, and was not set again.
    pub(super) fn has_rung(&self) -> bool {
        self.timer.is_elapsed()
    }

    /// Lets it ring at another instant.
    pub(super) fn set(&mut self, at: Instant) {
        self.timer.as_mut().reset(at);
        (self.at, self.asked) = (at, None);
    }

    /// Waits until it rings; at once if it has. Cancel-safe.
    pub(super) async fn rings(&mut self) {
        poll_fn(|context| self.poll(context)).await;
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let asked = self.asked.as_ref().is_some_and(|asked| asked.will_wake(context.waker()));
        if asked && Instant::now() < self.at {
            return Poll::Pending;
        }
        let rung = self.timer.as_mut().poll(context);
        self.asked = rung.is_pending().then(|| context.waker().clone());
        rung
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
        time::Duration,
    };

    use tokio::time::{sleep, timeout};

    use super::*;

    const SOON: Duration = Duration::from_millis(30);
    const LATE: Duration = Duration::from_secs(60);

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Counted {
        fn poll(self: &Arc<Self>, alarm: &mut Alarm) -> bool {
            alarm.poll(&mut Context::from_waker(&Waker::from(self.clone()))).is_ready()
        }

        fn woken(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn it_wakes_whoever_asked_last() {
        let mut alarm = Alarm::at(Instant::now() + SOON);
        let (first, second) = (Arc::new(Counted::default()), Arc::new(Counted::default()));
        for _ in 0..3 {
            assert!(!first.poll(&mut alarm));
        }
        assert!(!second.poll(&mut alarm));
        let woken = async {
            while second.woken() == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LATE, woken).await.expect("it rings");
        assert_eq!((first.woken(), second.woken()), (0, 1));
        assert!(second.poll(&mut alarm) && alarm.has_rung());
    }

    #[tokio::test]
    async fn set_again_it_rings_again() {
        let mut alarm = Alarm::at(Instant::now() + SOON);
        let soon = alarm.deadline();
        alarm.rings().await;
        assert!(Instant::now() >= soon && alarm.has_rung());
        alarm.set(Instant::now() + LATE);
        assert!(!alarm.has_rung());
        assert!(timeout(SOON, alarm.rings()).await.is_err());
        alarm.set(Instant::now() + SOON);
        timeout(LATE / 2, alarm.rings()).await.expect("it was set to an earlier instant");
    }
}
