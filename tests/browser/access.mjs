// The page against a host with tokens: it asks for one, shows what is wrong, keeps it with the
// tab, and reads its stream with it.
//
//     node access.mjs --url http://127.0.0.1:8080 --read TOKEN --write TOKEN

import assert from "node:assert/strict";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const { values: args } = parseArgs({ options: { url: { type: "string" }, read: { type: "string" }, write: { type: "string" } } });
const origin = new URL(args.url).origin;
const id = `A${Date.now().toString(36).toUpperCase()}-HOME`;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
});

let seq = 0;
async function basket() {
  const event = { game_id: id, seq: (seq += 1), type: "field_goal", team: "HOME", player: "Some Body", points: 2, period: 1, clock: "9:42" };
  const headers = { "content-type": "application/json", authorization: `Bearer ${args.write}` };
  const answer = await fetch(`${origin}/score`, { method: "POST", headers, body: JSON.stringify(event) });
  assert.ok(answer.ok, `POST /score answered ${answer.status}`);
}

try {
  await basket();
  const context = await browser.newContext();
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(`uncaught: ${error.stack}`));
  page.on("request", (request) => {
    if (request.url().includes(args.read)) wrong.push("a token in an address");
  });
  await page.exposeFunction("reportViolation", (text) => wrong.push(`content security policy: ${text}`));
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => globalThis.reportViolation(`${event.violatedDirective} ${event.blockedURI}`));
  });
  const card = page.locator(`a.card[data-id=${JSON.stringify(id)}]`);
  const field = page.getByLabel("Token", { exact: true });
  const submit = page.getByRole("button", { name: "Show the games" });
  const alert = page.getByRole("alert");

  await page.goto(`${origin}/#/`);
  await page.getByRole("heading", { name: "A token, please" }).waitFor();
  assert.ok(await field.evaluate((node) => node === document.activeElement), "the field has the focus");
  assert.equal(await field.getAttribute("type"), "password");
  assert.equal(await card.count(), 0);

  // An answer that says nothing of the token is none that it opens something.
  await page.route("**/games?limit=1", (route) => route.fulfill({ status: 503, body: "" }), { times: 1 });
  await field.fill(args.write);
  await submit.click();
  await alert.filter({ hasText: "cannot check the token now: it answered 503" }).waitFor();
  for (const [token, words] of [["nonsense", "does not know"], ["schlüssel–1", "That is no token"], [args.write, "may not read"]]) {
    await field.fill(token);
    await submit.click();
    await alert.filter({ hasText: words }).waitFor();
  }
  assert.equal(await page.evaluate(() => sessionStorage.length), 0, "what opens nothing is not kept");

  await field.fill(args.read);
  await page.keyboard.press("Enter");
  await card.waitFor();
  assert.match(await card.locator(".points").allInnerTexts().then((all) => all.join(" ")), /\b2\b/);
  await basket();
  await card.locator(".points", { hasText: /^4$/ }).waitFor();
  assert.equal(await page.locator("#link").getAttribute("data-state"), "live");

  // It is there after a reload, and in no other tab.
  await page.reload();
  await card.waitFor();
  const other = await context.newPage();
  await other.goto(`${origin}/#/operator`);
  await other.getByRole("heading", { name: "A token, please" }).waitFor();
  await other.close();

  // One that the host no longer knows is asked for again.
  await page.evaluate(() => sessionStorage.setItem("courtside-token", "stale"));
  await page.reload();
  await page.getByText("The host does not know that token, or no longer accepts it.").first().waitFor();
  await field.fill(args.read);
  await submit.click();
  await card.waitFor();
  assert.deepEqual(wrong, []);
  console.log("token: the page asks for one, and reads with it");
} finally {
  await browser.close();
}
