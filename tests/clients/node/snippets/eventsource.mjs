/** Shows the data of each event; `source` comes back by itself until Holdover answers 204. */
export function follow(url, show) {
  const source = new EventSource(url);
  source.onmessage = (event) => show(event.data);
  return source;
}
