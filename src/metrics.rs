//! Every metric, in one table.
//!
//! Names are `holdover_<noun>_<unit>[_total]`; labels are bounded: routes come from the configuration, everything else is
//! an enumeration in the code. `docs/metrics.md` lists them for operators, and a test compares the two.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector,
};

/// See the module.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Held while the entries of a turn change and while a page is made, so that every page balances. Shared by clones.
    books: Arc<Mutex<()>>,
    /// Turns whose answer began to be recorded, by route.
    pub turns_started: IntCounterVec,
    /// Turns that ended, by route and outcome. `started = finished + live` holds whenever no turn is just changing.
    pub turns_finished: IntCounterVec,
    /// Turns that run now, by `state`: attached or detached (nobody follows).
    pub turns_live: IntGaugeVec,
    /// Starts that were attached to a running turn instead of being run again, by the rule that saw it.
    pub starts_attached: IntCounterVec,
    /// Starts refused, by reason.
    pub starts_refused: IntCounterVec,
    /// Turns whose recording ended before the turn, by cap.
    pub turns_capped: IntCounterVec,
    /// Turns given up because their memory was needed, by `state`: ended (dropped before their retention time) or detached
    /// (stopped).
    pub turns_shed: IntCounterVec,
    /// Resume requests, by result.
    pub resumes: IntCounterVec,
    /// Followers connected now, first clients included.
    pub followers: IntGauge,
    /// Followers cut because they did not take what was sent, or fell too far behind.
    pub followers_cut: IntCounterVec,
    /// Events recorded.
    pub events_recorded: IntCounter,
    /// Bytes recorded.
    pub bytes_recorded: IntCounter,
    /// Events sent to resuming followers that were recorded before they came.
    pub events_replayed: IntCounter,
    /// Bytes of these.
    pub bytes_replayed: IntCounter,
    /// Seconds from the request to the first event.
    pub first_event: Histogram,
    /// Seconds between chunks of an upstream's answer.
    pub upstream_gap: Histogram,
    /// Seconds a turn ran without any follower, observed when a follower comes back or the turn ends.
    pub detached: Histogram,
    /// Store operations, by operation and result.
    pub store_operations: IntCounterVec,
    /// Seconds a store operation took, by operation.
    pub store_latency: HistogramVec,
    /// Times a turn went on from memory because the store was behind its deadline.
    pub turns_degraded: IntCounter,
    /// Blocks written again because the store had forgotten them.
    pub blocks_repaired: IntCounter,
    /// Writes refused because another owner had taken the turn over.
    pub writes_fenced: IntCounter,
    /// Turns whose end could not be stored in time.
    pub turns_abandoned: IntCounter,
    /// Bytes of all logs held in memory.
    pub buffered_bytes: IntGauge,
    /// Limit of these (`store.memory_limit`).
    pub buffered_limit: IntGauge,
    /// Requests being answered, streams included.
    pub requests_in_flight: IntGauge,
    /// Requests, by kind and status class.
    pub requests: IntCounterVec,
    /// Seconds from the request's header to the end of its answer, by kind. Recorded streams are left out: their length
    /// is the backend's.
    pub request_duration: HistogramVec,
    /// Requests refused before they reached the backend, by reason.
    pub requests_rejected: IntCounterVec,
    /// 1 while the node drains.
    pub draining: IntGauge,
}

/// Buckets for latencies in seconds, 100 µs to 10 s.
const LATENCY: [f64; 12] = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 0.5, 1.0, 10.0];
/// Buckets for what a model or a person takes, in seconds.
const HUMAN: [f64; 11] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 600.0];

impl Metrics {
    /// All metrics, registered, at zero.
    pub fn new() -> Self {
        let r = Registry::new();
        let build = gauge_vec(&r, "build_info", "What is running; always 1", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            turns_started: counter_vec(&r, "turns_started_total", "Turns started", &["route"]),
            turns_finished: counter_vec(&r, "turns_finished_total", "Turns ended", &["route", "outcome"]),
            turns_live: gauge_vec(&r, "turns_live", "Turns running", &["state"]),
            starts_attached: counter_vec(
                &r,
                "starts_attached_total",
                "Retried starts attached to their turn",
                &["rule"],
            ),
            starts_refused: counter_vec(&r, "starts_refused_total", "Starts refused", &["reason"]),
            turns_capped: counter_vec(&r, "turns_capped_total", "Recordings ended before their turn", &["cap"]),
            turns_shed: counter_vec(&r, "turns_shed_total", "Turns given up for their memory", &["state"]),
            resumes: counter_vec(&r, "resumes_total", "Resume requests", &["result"]),
            followers: gauge(&r, "followers", "Followers connected"),
            followers_cut: counter_vec(&r, "followers_cut_total", "Followers cut", &["reason"]),
            events_recorded: counter(&r, "events_recorded_total", "Events recorded"),
            bytes_recorded: counter(&r, "recorded_bytes_total", "Bytes recorded"),
            events_replayed: counter(&r, "events_replayed_total", "Recorded events sent to resuming followers"),
            bytes_replayed: counter(&r, "replayed_bytes_total", "Recorded bytes sent to resuming followers"),
            first_event: histogram(&r, "first_event_seconds", "Request to first event", &HUMAN),
            upstream_gap: histogram(&r, "upstream_gap_seconds", "Time between chunks of an answer", &HUMAN),
            detached: histogram(&r, "detached_seconds", "Time a turn ran without a follower", &HUMAN),
            store_operations: counter_vec(&r, "store_operations_total", "Store calls", &["operation", "result"]),
            store_latency: histogram_vec(&r, "store_operation_seconds", "Store latency", &["operation"], &LATENCY),
            turns_degraded: counter(&r, "turns_degraded_total", "Times a turn went on from memory alone"),
            blocks_repaired: counter(&r, "blocks_repaired_total", "Blocks the store had forgotten, written again"),
            writes_fenced: counter(&r, "writes_fenced_total", "Writes refused: another owner has the turn"),
            turns_abandoned: counter(&r, "turns_abandoned_total", "Turns whose end could not be stored"),
            buffered_bytes: gauge(&r, "buffered_bytes", "Bytes of all logs in memory"),
            buffered_limit: gauge(&r, "buffered_limit_bytes", "Limit of buffered bytes"),
            requests_in_flight: gauge(&r, "requests_in_flight", "Requests being answered"),
            requests: counter_vec(&r, "requests_total", "Requests", &["kind", "status"]),
            request_duration: histogram_vec(&r, "request_duration_seconds", "Request duration", &["kind"], &HUMAN),
            requests_rejected: counter_vec(&r, "requests_rejected_total", "Requests refused at the door", &["reason"]),
            draining: gauge(&r, "draining", "1 while the node drains"),
            books: Arc::default(),
            registry: r,
        }
    }

    /// The page that Prometheus scrapes, in its text format.
    pub fn page(&self) -> Vec<u8> {
        let mut page = Vec::new();
        let families = {
            let _whole = self.books();
            self.registry.gather()
        };
        TextEncoder::new().encode(&families, &mut page).expect("metrics of known types can be encoded");
        page
    }

    /// To be held while several of a turn's metrics change together. Nothing may wait under it.
    pub fn books(&self) -> MutexGuard<'_, ()> {
        self.books.lock().expect("no code panics while it holds this lock")
    }

    /// Counts one store call.
    pub fn store_call(&self, operation: &'static str, took: Duration, ok: bool) {
        let result = if ok { "ok" } else { "error" };
        self.store_operations.with_label_values(&[operation, result]).inc();
        self.store_latency.with_label_values(&[operation]).observe(took.as_secs_f64());
    }

    /// Names of all metrics, as scraped.
    pub fn names(&self) -> Vec<String> {
        self.registry.gather().into_iter().map(|family| family.name().to_owned()).collect()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("holdover")
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<C>) -> C {
    let metric = metric.expect("metric names are valid");
    registry.register(Box::new(metric.clone())).expect("metric names are unique");
    metric
}

fn counter(r: &Registry, name: &str, help: &str) -> IntCounter {
    register(r, IntCounter::with_opts(opts(name, help)))
}

fn counter_vec(r: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(r, IntCounterVec::new(opts(name, help), labels))
}

fn gauge(r: &Registry, name: &str, help: &str) -> IntGauge {
    register(r, IntGauge::with_opts(opts(name, help)))
}

fn gauge_vec(r: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(r, IntGaugeVec::new(opts(name, help), labels))
}

fn histogram(r: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
    register(r, Histogram::with_opts(opts))
}

fn histogram_vec(r: &Registry, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
    let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
    register(r, HistogramVec::new(opts, labels))
}
