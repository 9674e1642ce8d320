// For pages without modules: one script element, and every fetch of the page is resumable. It can be told otherwise by
// `holdover.uninstall()`, and then `holdover.install(options)`.

import { install, resumableFetch, TurnError } from './resume.ts';

Object.assign(globalThis, { holdover: { install, resumableFetch, TurnError, uninstall: install() } });
