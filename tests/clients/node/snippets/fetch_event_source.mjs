import { fetchEventSource } from '@microsoft/fetch-event-source';

/** Asks, and shows the data of each event of the answer. */
export function ask(url, prompt, show) {
  return fetchEventSource(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt }),
    openWhenHidden: true, // else it leaves when the tab is hidden, and comes back when it is shown
    onmessage: (event) => show(event.data),
  });
}
