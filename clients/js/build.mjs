// Builds `dist` from `src`.
//
//   node build.mjs           writes it
//   node build.mjs --check   fails if what is there is not what would be written
//
// `dist` is checked in: Holdover serves it, and its build needs no Node.

import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = fileURLToPath(new URL('.', import.meta.url));
const check = process.argv.includes('--check');
const banner = '// clients/js of Holdover (Apache-2.0)';

/** What is built: a file of `dist`, its entry in `src`, and its kind. */
const bundles = [
  ['resume.js', 'resume.ts', 'esm'],
  ['resume.cjs', 'resume.ts', 'cjs'],
  ['resume.classic.js', 'classic.ts', 'iife'],
  ['resume-sw.js', 'worker.ts', 'iife'],
];

const files = new Map();
for (const [file, entry, format] of bundles) {
  const { outputFiles } = await build({
    absWorkingDir: here,
    entryPoints: [`src/${entry}`],
    bundle: true,
    minify: true,
    format,
    // Of 2021 and 2022: Chrome 94, Firefox 93, Safari 16.4.
    target: 'es2022',
    banner: { js: banner },
    write: false,
  });
  files.set(file, outputFiles[0].text);
}
const types = declarations();
files.set('resume.d.ts', types);
files.set('resume.d.cts', types);

let stale = 0;
mkdirSync(join(here, 'dist'), { recursive: true });
for (const [file, text] of files) {
  const path = join(here, 'dist', file);
  if (!check) {
    writeFileSync(path, text);
  } else if (read(path) !== text) {
    console.error(`dist/${file} is not what src gives: run \`npm run build\` in clients/js`);
    stale += 1;
  }
}
process.exit(stale ? 1 : 0);

/** Checks all types; gives the declarations of what a page sees, which is one file of the source. */
function declarations() {
  const out = mkdtempSync(join(tmpdir(), 'holdover-types-'));
  try {
    const compiler = join(dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin', 'tsc');
    const options = ['--noEmit', 'false', '--declaration', '--emitDeclarationOnly', '--stripInternal', '--outDir', out];
    const { status, stdout } = spawnSync(process.execPath, [compiler, '-p', here, ...options], { encoding: 'utf8' });
    if (status !== 0) throw new Error(stdout);
    return readFileSync(join(out, 'resume.d.ts'), 'utf8');
  } finally {
    rmSync(out, { recursive: true });
  }
}

function read(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}
