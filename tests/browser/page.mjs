// The live page in a real browser, against a running host: tests/browser/run starts both.
//
// Needs Chromium at /usr/bin/chromium, or at $CHROMIUM. It posts games of its own, under names
// that no other run has, and waits for what it expects to see; no check measures time.
// Where the host cannot be brought to say something (odd outputs, a lost connection), the
// answer is put in its place on the way to the browser. ONLY=TEXT runs the checks with it in their name.

import { args, browser } from "./harness.mjs";
import board from "./checks/board.mjs";
import everyone from "./checks/everyone.mjs";
import game from "./checks/game.mjs";
import operator from "./checks/operator.mjs";

let passed = 0;
let failed = 0;
for (const [name, check] of Object.entries({ ...board, ...game, ...operator, ...everyone })) {
  if (args.only && !name.includes(args.only)) continue;
  try {
    await check();
    passed += 1;
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}\n${error.stack}\n`);
  }
}
await browser.close();
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
