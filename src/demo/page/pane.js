// One pane: a client with its message box, what it shows, and what it keeps for a reload.

import { Turn } from './stream.js';
import { AnswerView, EventList, StripView } from './view.js';

/** How often the backend and Holdover are asked what they see while a turn runs, in milliseconds. */
const WATCH = 700;
/** How long to go on asking after a loss, in looks, until the backend has noticed that its client is gone. */
const LOOKS_AFTER_END = 6;

export class Pane {
  /**
   * `name` labels the pane and its saved state, `address` is what people read, `base` the origin it talks to ('' for the
   * page's own), and `pace` the milliseconds between events (null: the backend's own).
   */
  constructor(parent, { name, title, address, base, pace }) {
    const root = document.getElementById('pane').content.cloneNode(true).firstElementChild;
    this.parts = {};
    for (const element of root.querySelectorAll('[data-part]')) this.parts[element.dataset.part] = element;
    this.counters = {};
    for (const element of root.querySelectorAll('[data-count]')) this.counters[element.dataset.count] = element;
    this.buttons = {};
    for (const element of root.querySelectorAll('[data-action]')) this.buttons[element.dataset.action] = element;

    this.root = root;
    this.base = base;
    this.pace = pace;
    this.key = `holdover-demo:${name}`;
    root.dataset.pane = name;
    this.parts.name.textContent = title;
    this.parts.name.id = `${name}-name`;
    root.setAttribute('aria-labelledby', this.parts.name.id);
    this.parts.address.textContent = address;
    this.parts.held.hidden = name === 'direct';

    this.answer = new AnswerView(this.parts.answer, this.parts.spoken);
    this.strip = new StripView(this.parts.strip);
    this.events = new EventList(this.parts.events);

    this.parts.form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.send();
    });
    this.buttons.cut.addEventListener('click', () => this.cut());
    this.buttons.reload.addEventListener('click', () => this.reload());
    parent.append(root);
    this.#reset();
    this.#tell([], 'Ready to send');
  }

  /** Sends the message in the box. Each pane is a chat of its own: the backend's counters then speak of its turns only. */
  send() {
    const message = this.parts.form.elements.message;
    if (!message.reportValidity()) return;
    this.#reset(this.chat ?? newChatId());
    sessionStorage.removeItem(this.key);
    this.#save({ chat: this.chat, abortedBefore: this.abortedBefore });
    this.#tell([], 'Sent, waiting for the answer');
    const body = { id: this.chat, message: message.value };
    if (this.pace !== null) body.pace = this.pace;
    this.#run((turn) => turn.start(`${this.base}/api/chat`, body));
  }

  /** Breaks the connection in mid-answer. */
  cut() {
    if (this.live) this.client.cut();
  }

  /** Forgets everything but what is saved, as a reload of the page does. */
  reload() {
    this.client?.close();
    this.restore('Pane reloaded');
  }

  /** Continues from what was saved before `cause`. */
  restore(cause) {
    const saved = this.#saved();
    if (saved.resume) {
      this.follow(saved.resume, cause);
    } else if (saved.received) {
      this.#reset(saved.chat);
      this.strip.extend(saved.total);
      this.#loseRest();
      // A real page loads a finished answer from its history. An unfinished one is in nobody's history.
      const at = saved.finished ? 'after its end' : `at event ${saved.received} of ${saved.total}`;
      this.abortedBefore = saved.finished ? Infinity : saved.abortedBefore;
      this.#tell([cause, `answer lost ${at}`, 'nothing to resume from']);
      this.#watch(LOOKS_AFTER_END);
    } else {
      this.#reset(saved.chat);
      this.#tell([], 'Ready to send');
    }
  }

  /** Attaches to a turn from its first event: the rendering is empty, so nothing less will do. */
  follow(resume, cause) {
    this.#reset(this.#saved().chat);
    this.#tell([cause], 'attaching…');
    this.#run((turn) => turn.attach(resume));
  }

  #run(begin) {
    const client = new Turn({
      opened: (turn) => this.#opened(turn),
      event: (event) => this.#event(event),
      cut: (seq) => {
        this.#setLive(false);
        this.#tell([`Connection cut at event ${seq}`], 'resuming…');
      },
      behind: (status) => {
        this.strip.markMissing(client.seq + 1, status.last_seq, 'gap');
        this.#held(status);
      },
      recovered: (count) => this.#tell([this.past[0], `${count} events recovered`]),
      missing: (first, last) => {
        this.strip.markMissing(first, last, 'lost');
        this.#count({ lost: this.counts.lost + last - first + 1 });
      },
      finished: () => {
        this.#loseRest();
        this.#over(this.counts.lost ? `answer complete but for ${this.counts.lost} events` : 'answer complete');
      },
      ended: (state) => {
        this.#loseRest();
        this.#over(`the turn is ${state}`);
      },
      lost: (seq) => {
        this.#loseRest();
        this.#setLive(false);
        this.#tell([`Connection cut at event ${seq}`, 'answer lost']);
        this.#watch(LOOKS_AFTER_END);
      },
      failed: (error) => {
        this.#over(`failed: ${error.message}`);
        sessionStorage.removeItem(this.key);
      },
    }, (event) => event.type === 'finish');
    this.client = client;
    begin(client);
  }

  #opened({ turn, resume }) {
    this.#setLive(true);
    this.#watch(Infinity);
    this.parts.turn.textContent = turn ?? 'none: nobody records';
    if (resume) {
      this.parts.follow.href = `/#follow=${encodeURIComponent(new URL(resume).pathname)}`;
      this.parts.follow.hidden = false;
    }
    this.#save({ resume });
    // A resumed connection has its word when the missed events are counted.
    if (this.past.length === 0) this.#tell([], 'Receiving the answer');
  }

  #event(event) {
    if (this.strip.has(event.seq)) {
      this.strip.mark(event.seq, 'doubled');
      this.#count({ doubled: this.counts.doubled + 1 });
      return;
    }
    if (event.data.type === 'start') this.strip.extend(event.data.events);
    this.strip.mark(event.seq, event.recovered ? 'recovered' : 'live');
    this.answer.add(event.data);
    this.events.add(event);
    this.parts.last.textContent = event.id ?? 'none: the backend sends no ids';
    this.#count({
      received: this.counts.received + 1,
      recovered: this.counts.recovered + (event.recovered ? 1 : 0),
    });
    this.#save({ received: this.counts.received, total: this.strip.total });
  }

  /** What has not come by now will never come. */
  #loseRest() {
    this.strip.markMissing(1, this.strip.total, 'lost');
    this.#count({ lost: this.strip.total - this.counts.received });
  }

  #over(text) {
    this.#setLive(false);
    this.#save({ finished: true });
    this.#tell(this.past, text);
    this.#watch(LOOKS_AFTER_END);
  }

  /** Asks both ends what they see, until `looks` are used up. A later call takes over from an earlier one. */
  async #watch(looks) {
    const watch = Symbol('watch');
    this.watching = watch;
    for (; looks > 0 && this.watching === watch; looks -= 1) {
      const [stats, status] = await Promise.all([
        fetch(`${this.base}/api/stats`).then((answer) => answer.json()).catch(() => null),
        this.client?.status(),
      ]);
      if (this.watching !== watch) return;
      const seen = stats?.chats[this.chat];
      if (seen) this.#seen(seen);
      if (status) this.#held(status);
      await new Promise((wake) => setTimeout(wake, WATCH));
    }
  }

  #held({ state, last_seq, followers }) {
    const readers = followers === 1 ? '1 follower' : `${followers} followers`;
    this.parts.status.textContent = `${state}, ${last_seq} events, ${readers}`;
  }

  #seen(chat) {
    this.counters.started.textContent = chat.turns_started;
    this.counters.finished.textContent = chat.turns_finished;
    this.counters.aborted.textContent = chat.turns_aborted;
    // Said only when the backend itself has said so.
    const claim = 'the backend aborted the turn';
    if (this.counts.lost > 0 && chat.turns_aborted > this.abortedBefore && !this.past.includes(claim)) {
      this.#tell([...this.past, claim]);
    }
  }

  /** Says what has happened (`past`) and what is going on (`now`), in one line that screen readers announce. */
  #tell(past, now = '') {
    this.past = past;
    const story = [...past, now].filter(Boolean).join(' — ');
    this.parts.story.textContent = story.charAt(0).toUpperCase() + story.slice(1);
  }

  #count(changes) {
    Object.assign(this.counts, changes);
    for (const [name, count] of Object.entries(this.counts)) {
      this.counters[name].textContent = count;
      this.counters[name].parentElement.classList.toggle('some', count > 0);
    }
    const { received, recovered, lost } = this.counts;
    this.strip.describe(`${received} of ${this.strip.total} events received, ${recovered} of them recovered, ${lost} lost.`);
  }

  /** A button that turns `disabled` loses the keyboard's place; this one only stops answering. */
  #setLive(live) {
    this.live = live;
    this.root.classList.toggle('live', live);
    this.buttons.cut.setAttribute('aria-disabled', String(!live));
  }

  #saved() {
    return JSON.parse(sessionStorage.getItem(this.key) ?? '{}');
  }

  #save(changes) {
    sessionStorage.setItem(this.key, JSON.stringify({ ...this.#saved(), ...changes }));
  }

  #reset(chat) {
    this.client?.close();
    this.client = null;
    this.watching = null;
    this.chat = chat;
    this.abortedBefore = Number(this.counters.aborted.textContent);
    this.past = [];
    this.counts = { received: 0, recovered: 0, lost: 0, doubled: 0 };
    this.answer.clear();
    this.strip.clear();
    this.events.clear();
    this.#count({});
    this.#setLive(false);
    this.parts.turn.textContent = 'none';
    this.parts.last.textContent = 'none';
    this.parts.status.textContent = 'nothing yet';
    this.parts.follow.hidden = true;
  }
}

/** Unique enough to tell chats apart. `crypto.randomUUID` exists on HTTPS and localhost only. */
function newChatId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
