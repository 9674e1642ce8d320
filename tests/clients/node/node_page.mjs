// A document for React to render into in Node. To be imported before React.

import { Window } from 'happy-dom';

const window = new Window({ url: 'http://chat.test/' });
Object.assign(globalThis, { window, document: window.document, sessionStorage: window.sessionStorage });
Object.assign(globalThis, { localStorage: window.localStorage, HTMLElement: window.HTMLElement, Node: window.Node });
