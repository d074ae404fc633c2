// How the page asks its host: with a token, where the host wants one. The token is kept as
// long as the tab, for this host's pages alone, and goes nowhere but into a header.

const KEY = "courtside-token";

/** What a token is asked for with: a browser may keep no storage for this page. */
let token = stored();
/** Why the host did not answer the last time: "", or words for a person. */
let refusal = "";
const listeners = [];

function stored() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

function keep(value) {
  token = value;
  try {
    if (value === "") sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, value);
  } catch {
    // Then it is known as long as this page.
  }
}

/** Calls back when the host begins to refuse this page, and when it no longer does. */
export function onAccess(listener) {
  listeners.push(listener);
}

export function isRefused() {
  return refusal !== "";
}

/** Why, in words for a person. */
export function whyRefused() {
  return refusal;
}

export function hasToken() {
  return token !== "";
}

function settle(words) {
  if (refusal === words) return;
  refusal = words;
  for (const listener of listeners) listener();
}

/** `fetch`, with the token. A refusal is an answer, too. */
export async function send(path, { headers, ...options } = {}) {
  const shown = token;
  const answer = await fetch(path, { ...options, headers: withToken(headers, shown) });
  // Of a token that was replaced meanwhile, nobody wants to hear.
  if (shown === token && isRefusal(answer)) settle(wordsOf(answer.status, shown));
  return answer;
}

/** Whether another token would help: a proxy may forbid this or that by itself. */
export function isRefusal({ status, headers }) {
  return status === 401 || (status === 403 && Boolean(headers.get("www-authenticate")?.includes("insufficient_scope")));
}

function withToken(headers, shown) {
  const all = new Headers(headers);
  if (shown !== "") all.set("authorization", `Bearer ${shown}`);
  return all;
}

function wordsOf(status, shown) {
  if (status === 403) return "That token may not read. It needs the scope “read”.";
  return shown === "" ? "This host shows its games only to visitors with a token." : "The host does not know that token, or no longer accepts it.";
}

/** Shows the host another token ("" is none), and keeps it if it opens something. Why not, else. */
export async function tryToken(value) {
  // A token is one word, and a header bears no other letters.
  if (!/^[\x21-\x7e]*$/.test(value)) return "That is no token: a token is a single word of plain letters, digits and signs.";
  try {
    const answer = await fetch("games?limit=1", { headers: withToken({}, value) });
    if (isRefusal(answer)) return wordsOf(answer.status, value);
    // Neither a proxy's page of errors nor a host that is busy says that it opens anything.
    // (A host without the pipeline `scores` has no games, and lets this page in to say so.)
    if (!answer.ok && answer.status !== 404) return `The host cannot check the token now: it answered ${answer.status}.`;
  } catch {
    return "The host does not answer.";
  }
  keep(value);
  settle("");
  return "";
}
