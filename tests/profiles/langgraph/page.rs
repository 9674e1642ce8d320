//! `useStream` on a page of another origin, in Chromium. What it shows is what counts.

use super::*;

/// A chat on a page.
fn page(stage: &Stage, major: &str, more: &[&str]) -> Program {
    stage.client(Script::node("use_stream.mjs").args(["--major", major]).args(more))
}

/// The answer on the page must only grow, but for a reload, and be whole in the end.
fn judge(report: &Report, reloads: usize) {
    assert_eq!((&*report.ended, &*report.errors), ("clean", &[][..]), "{report:#?}");
    let texts: Vec<_> = report.events.iter().map(|event| &*event.data).collect();
    for text in &texts {
        assert!(answer().starts_with(text), "{text:?} in {texts:#?}");
    }
    assert_eq!(texts.last(), Some(&&*answer()));
    let shrunk = texts.windows(2).filter(|pair| pair[1].len() < pair[0].len()).count();
    assert!(shrunk <= reloads, "{texts:#?}");
}

#[tokio::test]
async fn it_survives_cuts_and_a_reload() {
    for (major, kind) in [("2", Kind::Bare), ("1", Kind::Own)] {
        let cuts = [Cut::inside(3, 20, How::Fin), Cut::after(2, How::Reset)];
        let stage = Stage::with(kind, cuts).await;
        let five = answer().len() * 5 / TOKENS;
        let page = page(&stage, major, &["--reload-at", &five.to_string()]);
        let mut run = stage.platform.run().await;
        // Enough for the second cut, whether the page still had the third event when it was cut or had thrown it away.
        run.send_until(5).await;
        stage.faults.streams_are(3).await;
        // The fifth token makes it reload.
        run.send_until(6).await;
        stage.faults.streams_are(4).await;
        run.send_until(EVENTS).await;
        run.end().await;
        judge(&page.report().await, 1);
        stage.judge_server().await;
    }
}

/// It cannot go on by itself, but a new page can.
#[tokio::test]
async fn the_oldest_survives_a_reload() {
    let stage = Stage::with(Kind::Bare, []).await;
    let three = answer().len() * 3 / TOKENS;
    let page = page(&stage, "0", &["--reload-at", &three.to_string()]);
    let mut run = stage.platform.run().await;
    run.send_until(4).await;
    stage.faults.streams_are(2).await;
    run.send_until(EVENTS).await;
    run.end().await;
    judge(&page.report().await, 1);
    stage.judge_server().await;
}

/// With `reconnectOnMount` its Stop cancels the run; it does not merely leave.
#[tokio::test]
async fn its_stop_cancels_the_run() {
    let stage = Stage::with(Kind::Own, []).await;
    let three = answer().len() * 3 / TOKENS;
    let page = page(&stage, "2", &["--stop-at", &three.to_string()]);
    let mut run = stage.platform.run().await;
    run.send_until(4).await;
    stage.platform.cancelled().await;
    run.end().await;
    let finished = &[("outcome", "cancelled")];
    stage.holdover.metric_is("holdover_turns_finished_total", finished, 1.0).await;
    assert_eq!(page.report().await.ended, "clean");
}
