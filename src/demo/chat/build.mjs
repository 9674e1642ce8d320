// Bundles `chat.jsx` with React, the AI SDK and the fetch shim into `../page/chat.js`, which is checked in: the demo is one
// binary, and its build needs no Node.
//
//   node src/demo/chat/build.mjs [--check]     with the packages of tests/clients/node
//
// --check fails if what is there is not what would be written.

import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const at = (path) => fileURLToPath(new URL(path, import.meta.url));
const packages = at('../../../tests/clients/node/');
const { build } = createRequire(packages)('esbuild');

const { outputFiles } = await build({
  absWorkingDir: at('.'),
  entryPoints: ['chat.jsx'],
  nodePaths: [`${packages}node_modules`],
  bundle: true,
  minify: true,
  format: 'esm',
  target: 'es2022',
  jsx: 'automatic',
  define: { 'process.env.NODE_ENV': '"production"' },
  banner: { js: '// Built from src/demo/chat. Holds React (MIT), zod (MIT) and the AI SDK (Apache-2.0).' },
  legalComments: 'eof',
  write: false,
});
const target = at('../page/chat.js');
if (!process.argv.includes('--check')) {
  writeFileSync(target, outputFiles[0].contents);
} else if (!Buffer.from(outputFiles[0].contents).equals(readFileSync(target))) {
  console.error('src/demo/page/chat.js is not what src/demo/chat gives: run node src/demo/chat/build.mjs');
  process.exit(1);
}
