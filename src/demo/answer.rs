//! What the agent says: a fixed text with one tool call, cut into the small pieces a model would send.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

/// One event of the backend's own dialect, the JSON behind `data:`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(super) enum Event {
    /// First event. Real agents cannot say how many events will come; this one can, and the page uses it to show what
    /// a cut has cost.
    Start { turn: u64, events: usize },
    /// A piece of the answer.
    Text { delta: &'static str },
    /// The agent begins to call a tool.
    ToolCall { id: &'static str, name: &'static str },
    /// A piece of the call's arguments, which are JSON once put together.
    ToolArguments { id: &'static str, delta: &'static str },
    /// What the tool answered.
    ToolResult { id: &'static str, result: Value },
    /// Last event. A stream that ends without it was cut.
    Finish { reason: &'static str },
}

const CALL: &str = "call-1";
const ARGUMENTS: [&str; 9] =
    ["{\"city\"", ": \"Lis", "bon\", ", "\"days\": ", "[\"Satur", "day\", ", "\"Sunday\"], ", "\"unit\": ", "\"°C\"}"];

const OPENING: &str = "Two nights are enough for Lisbon if the hills come first and the river last. \
    First, the weather.";
const SATURDAY_DRY: &str = "Saturday stays dry and Sunday brings rain, so go outdoors first.\n\nSaturday: ";
const SUNDAY_DRY: &str = "Saturday brings rain and Sunday stays dry, so keep the hills for the end.\n\nSaturday: ";
const SUNDAY: &str = "\n\nSunday: ";
const OUTDOORS: &str = "take tram 28 up to Graça before nine, while it is still empty. \
    Walk down through Alfama to the cathedral and have grilled fish near the river. \
    Keep the hour before sunset for the viewpoint at Senhora do Monte.";
const INDOORS: &str = "start in Belém with the cloister of the monastery, then cross over to the coach museum. \
    In the evening, a small fado house needs a booking but no umbrella.";
const CLOSING: &str = "\n\nFor both days: load a transit card at the first metro station, and wear shoes with grip, \
    because the pavement is slick when wet.";

/// The answer to a chat's `turn`-th message. Odd and even turns get different weather, and so a different order of days:
/// two turns of one chat can be told apart by their text.
pub(super) fn events(turn: u64) -> Vec<Event> {
    let saturday_is_dry = turn % 2 == 1;
    let (head, saturday, sunday) =
        if saturday_is_dry { (SATURDAY_DRY, OUTDOORS, INDOORS) } else { (SUNDAY_DRY, INDOORS, OUTDOORS) };
    let (dry, wet) = (json!({"sky": "clear", "high": 23}), json!({"sky": "rain", "high": 17}));
    let result =
        if saturday_is_dry { json!({"Saturday": dry, "Sunday": wet}) } else { json!({"Saturday": wet, "Sunday": dry}) };

    let mut events = vec![Event::Start { turn, events: 0 }];
    events.extend(words(OPENING));
    events.push(Event::ToolCall { id: CALL, name: "weather_lookup" });
    events.extend(ARGUMENTS.map(|delta| Event::ToolArguments { id: CALL, delta }));
    events.push(Event::ToolResult { id: CALL, result });
    events.extend([head, saturday, SUNDAY, sunday, CLOSING].into_iter().flat_map(words));
    events.push(Event::Finish { reason: "stop" });
    events[0] = Event::Start { turn, events: events.len() };
    events
}

/// The pause before the `n`-th event when the client asks for no other pace: 40 to 60 ms, uneven like a model's.
pub(super) fn pause(n: usize) -> Duration {
    Duration::from_millis(40 + (n as u64 * 8) % 21)
}

fn words(text: &'static str) -> impl Iterator<Item = Event> {
    text.split_inclusive(' ').map(|delta| Event::Text { delta })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_announces_its_length_and_its_arguments_are_json() {
        for turn in 1..=2 {
            let events = events(turn);
            assert_eq!(events[0], Event::Start { turn, events: events.len() });
            assert!((120..=160).contains(&events.len()), "{} events", events.len());
            let arguments: Value = serde_json::from_str(&ARGUMENTS.concat()).unwrap();
            assert_eq!(arguments["city"], "Lisbon");
        }
        assert_ne!(events(1), events(2));
    }

    #[test]
    fn the_default_pace_is_forty_to_sixty_milliseconds() {
        let pauses: Vec<_> = (0..160).map(|n| pause(n).as_millis()).collect();
        assert_eq!((pauses.iter().min(), pauses.iter().max()), (Some(&40), Some(&60)));
    }
}
