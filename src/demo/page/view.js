// What one pane shows: the answer, the event strip, the list of events. Nothing here knows where events come from.

/** The answer as it grows: text and tool calls, from the events of the backend's dialect. */
export class AnswerView {
  constructor(element, spoken) {
    this.element = element;
    this.spoken = spoken;
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.spoken.replaceChildren();
    this.calls = new Map();
    this.text = null;
    this.sentence = '';
  }

  add(event) {
    switch (event.type) {
      case 'text':
        this.text ??= this.element.appendChild(node('p', 'text'));
        this.text.append(event.delta);
        this.#speak(event.delta);
        break;
      case 'tool-call':
        this.text = null;
        this.#speakRest();
        this.calls.set(event.id, new ToolCard(this.element, event.name));
        this.#say(`Calls the tool ${event.name.replaceAll('_', ' ')}.`);
        break;
      case 'tool-arguments':
        this.calls.get(event.id)?.input.append(event.delta);
        break;
      case 'tool-result':
        this.calls.get(event.id)?.done(event.result);
        break;
      case 'finish':
        this.#speakRest();
        break;
    }
  }

  /** Collects words until a sentence is whole: a screen reader that is told every word never gets to the end. */
  #speak(delta) {
    this.sentence += delta;
    const whole = /^[\s\S]*[.!?](?=\s)/.exec(this.sentence);
    if (!whole) return;
    this.#say(whole[0]);
    this.sentence = this.sentence.slice(whole[0].length);
  }

  #speakRest() {
    this.#say(this.sentence);
    this.sentence = '';
  }

  #say(text) {
    if (!text.trim()) return;
    // Old sentences go, so that the spoken copy is not read a second time behind the answer.
    while (this.spoken.childElementCount > 2) this.spoken.firstElementChild.remove();
    this.spoken.appendChild(node('p', '', text.trim()));
  }
}

class ToolCard {
  constructor(parent, name) {
    const card = parent.appendChild(node('figure', 'tool'));
    const caption = card.appendChild(node('figcaption', '', name));
    this.state = caption.appendChild(node('span', 'state', 'running'));
    this.input = card.appendChild(node('code', 'input'));
    this.output = card.appendChild(node('dl', 'output'));
  }

  done(result) {
    this.state.textContent = 'done';
    for (const [key, value] of Object.entries(result)) {
      const row = this.output.appendChild(node('div'));
      const { sky, high } = value;
      row.append(node('dt', '', key), node('dd', '', sky ? `${sky}, ${high} °C` : JSON.stringify(value)));
    }
  }
}

/** One tick per event of the turn, in order. The first event of the backend says how many there will be. */
export class StripView {
  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.describe('No events yet.');
  }

  /** Makes room for `total` events. */
  extend(total) {
    while (this.element.childElementCount < total) this.element.appendChild(node('i', 'tick'));
  }

  /** Marks event `seq` as live, recovered, gap, lost or doubled. */
  mark(seq, kind) {
    this.extend(seq);
    this.element.children[seq - 1].className = `tick ${kind}`;
  }

  /** Marks all of a range that were not received. */
  markMissing(first, last, kind) {
    for (let seq = first; seq <= last; seq += 1) {
      if (!this.has(seq)) this.mark(seq, kind);
    }
  }

  has(seq) {
    return /live|recovered|doubled/.test(this.element.children[seq - 1]?.className ?? '');
  }

  /** How many events the turn has, as far as is known. */
  get total() {
    return this.element.childElementCount;
  }

  /** The same picture in words. */
  describe(text) {
    this.element.setAttribute('aria-label', text);
  }
}

/** The events one by one, with their ids. */
export class EventList {
  constructor(element) {
    this.element = element;
  }

  clear() {
    this.element.replaceChildren();
  }

  add({ seq, id, data, recovered }) {
    // Follow the end only while the reader is there: whoever scrolled up wants to read.
    const { scrollTop, scrollHeight, clientHeight } = this.element;
    const atEnd = scrollHeight - scrollTop - clientHeight < 8;
    const row = this.element.appendChild(node('li', recovered ? 'recovered' : ''));
    row.value = seq;
    const what = data.delta ?? data.name ?? data.reason ?? '';
    row.append(
      node('span', 'id', id ? `…${id.slice(-10)}` : 'no id'),
      node('span', 'type', data.type),
      node('span', 'what', what.trim()),
    );
    if (recovered) row.append(node('span', 'how', 'recovered'));
    if (atEnd) this.element.scrollTop = this.element.scrollHeight;
  }
}

function node(tag, className = '', text = '') {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.textContent = text;
  return element;
}
