// The page: three panes side by side, or one pane that follows a turn another tab started.

import { ChatPane } from './chat.js';
import { Pane } from './pane.js';

const panes = document.querySelector('[data-part=panes]');
const options = new URLSearchParams(location.search);
// `?pace=20` asks the backend for an event every 20 ms, for those who cannot wait.
const pace = options.has('pace') ? Number(options.get('pace')) : null;
const holdover = { name: 'holdover', title: 'Through Holdover', address: `via ${location.host}`, base: '', pace };

const followed = resumeUrl(location.hash);
if (followed) follow(followed);
else await compare();

// Another turn in the address of this tab is another page.
addEventListener('hashchange', () => location.reload());

/** All panes, continued from what they kept before a reload. */
async function compare() {
  const { direct } = await (await fetch('/api/where')).json();
  const all = [
    new Pane(panes, { name: 'direct', title: 'Direct', address: `to ${new URL(direct).host}`, base: direct, pace }),
    new Pane(panes, holdover),
    new ChatPane(panes, { pace, address: 'AI SDK, stock; fetch: resumableFetch()' }),
  ];
  action('send-all', () => all.forEach((pane) => pane.send()));
  action('cut-all', () => all.forEach((pane) => pane.cut()));
  action('reload-page', () => location.reload());
  all.forEach((pane) => pane.restore('Page reloaded'));
}

/** One pane without a message box. */
function follow(resume) {
  document.body.classList.add('follows');
  document.title = 'Following a turn · Holdover demo';
  part('title').textContent = 'One turn, another follower.';
  part('lead').textContent = 'This tab reads a turn that another tab started: from its first event, then live. '
    + 'Any number of followers read the same log, and the backend runs one turn.';
  part('all').hidden = true;
  const pane = new Pane(panes, { ...holdover, title: 'Following through Holdover' });
  pane.follow(resume, 'Opened in this tab');
}

/** The resume URL in a `#follow=` address. Only this origin's: an address somebody sent must not reach elsewhere. */
function resumeUrl(hash) {
  const path = new URLSearchParams(hash.slice(1)).get('follow');
  if (!path) return null;
  const url = new URL(path, location.origin);
  return url.origin === location.origin ? url.href : null;
}

function part(name) {
  return document.querySelector(`[data-part=${name}]`);
}

function action(name, run) {
  document.querySelector(`[data-action=${name}]`).addEventListener('click', run);
}
