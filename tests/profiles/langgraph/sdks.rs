//! The SDKs by themselves.

use futures_util::future::join_all;

use super::*;

/// Where connections are cut, and how many events the server has sent by then.
struct Plan {
    cuts: Vec<Cut>,
    sent: Vec<usize>,
}

/// Inside an event, between events, and inside the first event of a connection.
fn inside() -> Plan {
    let cuts = vec![Cut::inside(3, 20, How::Fin), Cut::after(4, How::Reset), Cut::inside(0, 9, How::Reset)];
    Plan { cuts, sent: vec![4, 8, 10] }
}

/// Before anything came, in the middle, and behind the last event: the run is over when the client is back.
fn behind() -> Plan {
    let cuts = vec![Cut::after(0, How::Fin), Cut::inside(5, 30, How::Fin), Cut::after(EVENTS - 5, How::Fin)];
    Plan { cuts, sent: vec![2, 6, EVENTS] }
}

/// A run that a client reads in spite of cuts.
async fn survives(script: Script, kind: Kind, plan: Plan) {
    let stage = Stage::with(kind, plan.cuts.clone()).await;
    let client = stage.client(script);
    let mut run = stage.platform.run().await;
    let id = run.id.clone();
    stage.step(&mut run, &plan.sent).await;
    run.end().await;
    let report = client.report().await;
    stage.judge(&id, &report).await;
    assert_eq!(stage.faults.cuts(), plan.cuts.len());
    let ids: Vec<_> = report.events.iter().map(|event| event.id.as_deref().expect("every event has an id")).collect();
    let turn = ids[0].rsplit_once('-').expect("ids name a turn and a seq").0;
    assert_eq!(ids, (1..=EVENTS).map(|n| format!("{turn}-{n}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn javascript_goes_on_by_itself() {
    let runs = [
        survives(js("1"), Kind::Own, behind()),
        survives(js("1"), Kind::Bare, inside()),
        survives(js("2"), Kind::Own, inside()),
        survives(js("2"), Kind::Bare, behind()),
    ];
    join_all(runs).await;
}

#[tokio::test]
async fn python_goes_on_by_itself() {
    let runs = [
        survives(python(), Kind::Own, inside()),
        survives(python(), Kind::Bare, behind()),
        survives(python_sync(), Kind::Own, behind()),
        survives(python_sync(), Kind::Bare, inside()),
    ];
    join_all(runs).await;
}

/// It has no way of its own to go on, but can join.
#[tokio::test]
async fn the_oldest_javascript_goes_on_when_told() {
    for kind in [Kind::Own, Kind::Bare] {
        let stage = Stage::with(kind, [Cut::inside(4, 10, How::Fin)]).await;
        let mut client = stage.client(js("0").args(["--live"]));
        let mut run = stage.platform.run().await;
        let name = client.note("run").await.as_str().expect("a name").to_owned();
        let id = run.id.clone();
        run.send_until(6).await;
        let first = client.report().await;
        assert_eq!((&*first.ended, first.errors.len()), ("error", 1), "{first:#?}");
        let last = first.events.last().and_then(|event| event.id.clone()).expect("an id");
        let second = stage.client(js("0").args(["--action", "join", "--run", &name, "--last-event-id", &last]));
        stage.faults.streams_are(2).await;
        run.send_until(EVENTS).await;
        run.end().await;
        let second = second.report().await;
        let all = [first.events, second.events].concat();
        assert_eq!(read(&all), whole(&id));
        assert_eq!((&*second.ended, &*second.errors), ("clean", &[][..]));
        stage.judge_server().await;
    }
}

/// Other tabs, by the name of the run: from its start, whatever was sent before they came.
#[tokio::test]
async fn others_join_a_run() {
    for kind in [Kind::Own, Kind::Bare] {
        let stage = Stage::with(kind, [Cut::after(EVENTS, How::Fin), Cut::inside(3, 12, How::Reset)]).await;
        let mut client = stage.client(js("2").args(["--live"]));
        let mut run = stage.platform.run().await;
        let name = client.note("run").await.as_str().expect("a name").to_owned();
        assert_eq!(name == run.id, kind == Kind::Own);
        run.send_until(5).await;
        let id = run.id.clone();
        stage.holdover.metric_is("holdover_events_recorded_total", &[], 5.0).await;
        let join = |script: Script| stage.client(script.args(["--action", "join", "--run", &name]));
        let from_the_start = ["--last-event-id=-1"];
        // The second stream, which is cut.
        let cut = join(js("2").args(from_the_start));
        stage.faults.streams_are(2).await;
        let tabs = [
            cut,
            join(js("0").args(from_the_start)),
            join(js("1")),
            join(python()),
            join(python_sync().args(from_the_start)),
            // As the server itself calls it.
            stage.client(js("2").args(["--action", "join", "--run", &id]).args(from_the_start)),
        ];
        let here = async || (stage.holdover.metric("holdover_followers", &[]).await >= 6.0).then_some(());
        eventually("all to have joined", here).await;
        run.send_until(EVENTS).await;
        run.end().await;
        for (number, tab) in tabs.into_iter().enumerate() {
            let report = tab.report().await;
            assert_eq!((&*report.ended, &*report.errors), ("clean", &[][..]), "{kind:?} {number} {report:#?}");
            assert_eq!(read(&report.events), whole(&id), "{kind:?} {number}");
        }
        assert_eq!(read(&client.report().await.events), whole(&id));
        stage.judge_server().await;
    }
}

/// The SDKs read through Holdover what they read from the server itself.
#[tokio::test]
async fn they_read_the_same_through_holdover() {
    let scripts = [js("0"), js("1"), js("2"), python(), python_sync()];
    let again = [js("0"), js("1"), js("2"), python(), python_sync()];
    let both = |(direct, through): (Script, Script)| async {
        let stage = Stage::with(Kind::Own, []).await;
        let clients = [on(direct, stage.platform.backend.address()), on(through, stage.holdover.addr())];
        let mut reports = Vec::new();
        for _ in 0..2 {
            let mut run = stage.platform.run().await;
            // The same to both.
            run.id = "01a1fd7a-c0a3-7746-bf3e-000000000000".to_owned();
            run.send_until(EVENTS).await;
            run.end().await;
        }
        for client in clients {
            reports.push(client.report().await);
        }
        let [direct, through] = &reports[..] else { unreachable!("there are two") };
        // JavaScript takes a heartbeat for an event without data, once it has seen an id; Holdover spares it that.
        let there: Vec<_> = read(&direct.events).into_iter().filter(|(_, data)| !data.is_null()).collect();
        assert_eq!(there, read(&through.events), "{}", direct.client);
        assert_eq!(there.len(), EVENTS);
        assert_eq!((&direct.ended, &direct.errors), (&through.ended, &through.errors));
    };
    join_all(scripts.into_iter().zip(again).map(both)).await;
}

/// JavaScript sends a start again that was answered 503. The server has run nothing then.
#[tokio::test]
async fn a_start_that_was_refused_is_sent_again() {
    let stage = Stage::with(Kind::Own, []).await;
    let client = stage.client(js("2"));
    stage.platform.asked().await.answer("503 Service Unavailable", "", "").await;
    let mut run = stage.platform.run().await;
    let id = run.id.clone();
    run.send_until(EVENTS).await;
    run.end().await;
    let report = client.report().await;
    assert_eq!(report.ended, "clean", "{report:#?}");
    assert_eq!(read(&report.events), whole(&id));
    assert_eq!(stage.holdover.metric("holdover_turns_finished_total", &[]).await, 1.0);
}

/// A run is cancelled at the server if it knows how, and here if not.
#[tokio::test]
async fn cancelling_a_run_ends_its_turn_as_cancelled() {
    for (kind, script) in
        [(Kind::Own, js("2")), (Kind::Own, python()), (Kind::Bare, js("1")), (Kind::Bare, python_sync())]
    {
        let stage = Stage::with(kind, []).await;
        let mut client = stage.client(js("2").args(["--live"]));
        let mut run = stage.platform.run().await;
        let name = client.note("run").await.as_str().expect("a name").to_owned();
        run.send_until(3).await;
        stage.holdover.metric_is("holdover_events_recorded_total", &[], 3.0).await;
        let cancel = stage.client(script.args(["--action", "cancel", "--run", &name]));
        if kind == Kind::Bare {
            run.aborted().await;
        }
        assert_eq!(cancel.report().await.ended, "clean");
        if kind == Kind::Own {
            stage.platform.cancelled().await;
            // It says some more, as servers do.
            run.send_until(4).await;
            run.end().await;
        }
        let report = client.report().await;
        assert_eq!((&*report.ended, &*report.errors), ("clean", &[][..]), "{report:#?}");
        let events = if kind == Kind::Own { 4 } else { 3 };
        assert_eq!(read(&report.events).len(), events);
        let turn = report.events[0].id.as_deref().and_then(|id| id.split('-').next()).expect("an id").to_owned();
        let status = stage.holdover.status_as(&turn, Some("Bearer alice")).await;
        assert_eq!(status["state"], "cancelled", "{status}");
    }
}

/// A mere disconnect never cancels.
#[tokio::test]
async fn leaving_does_not_cancel() {
    let stage = Stage::with(Kind::Own, []).await;
    let mut client = stage.client(js("2").args(["--live"]));
    let mut run = stage.platform.run().await;
    client.note("run").await;
    run.send_until(3).await;
    client.kill();
    stage.holdover.metric_is("holdover_followers", &[], 0.0).await;
    let id = run.id.clone();
    run.send_until(EVENTS).await;
    run.end().await;
    let join = stage.client(python().args(["--action", "join", "--run", &id]));
    stage.judge(&id, &join.report().await).await;
}
