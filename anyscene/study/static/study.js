// One person's session: consent, instructions, items. An answer is on the server's disk before the
// next item is shown.

import { Lost, call, insist, newIdentifier, notify, send, sendWaiting } from "./connection.js";
import { enlargeFirst, isEnlarged, zoomKey } from "./zoom.js";

const LONGEST_SECONDS = 24 * 3600; // that the server takes

const element = (id) => document.getElementById(id);
const fieldsets = [...document.querySelectorAll("fieldset")];
const sections = [...document.querySelectorAll("main > section")];

let total = 0;
let parts = 1;
let open = 0; // position of the first unanswered item
let item = null; // as the server described it
let following = null; // the item after this one, loading
let marked = 0; // the question that a digit answers
let busy = false; // from an answer to the next item

// Seconds that an item was in sight.
const clock = {
  spent: 0,
  since: null,
  run(running) {
    if (this.since !== null) this.spent += (performance.now() - this.since) / 1000;
    this.since = running ? performance.now() : null;
  },
  reset() {
    this.since = null;
    this.spent = 0;
  },
  read() {
    this.run(this.since !== null);
    return Math.round(1000 * this.spent) / 1000;
  },
};

// ---- Items

function show(id) {
  for (const section of sections) section.hidden = section.id !== id;
  element("bar").hidden = !["item", "rest", "end"].includes(id);
  element("help").hidden = id !== "item";
  clock.run(id === "item" && !document.hidden);
  window.scrollTo(0, 0);
  element(id).querySelector("h1").focus({ preventScroll: true });
}

function showProgress(position) {
  element("progress").max = total;
  element("progress").value = open;
  element("place").textContent = position < total ? `${position + 1} of ${total}` : "All answered";
}

async function load(position) {
  const loaded = await call(`/api/task/${position}`);
  const urls = [loaded.foreground, ...loaded.images];
  try {
    await Promise.all(urls.map((src) => Object.assign(new Image(), { src }).decode()));
  } catch {
    throw new Lost("an image did not come");
  }
  return loaded;
}

// Show an item, or a break before the first one of a new set.
async function go(position, partBefore = Infinity) {
  if (position >= total) {
    showProgress(position);
    show("end");
    return;
  }
  const early = following?.position === position ? await following.loaded : null;
  following = null;
  const loaded = early ?? (await insist(() => load(position)));
  const isNewSet = loaded.part > partBefore && loaded.answers === null;
  element("rest-title").textContent = `Set ${loaded.part} of ${parts} is done`;
  present(loaded, isNewSet ? "rest" : "item");
}

function present(loaded, section) {
  item = loaded;
  const sources = { foreground: item.foreground, first: item.images[0], second: item.images[1] };
  for (const [id, src] of Object.entries(sources)) {
    if (src) Object.assign(element(id), { src, width: item.width, height: item.height });
  }
  element("pictures").style.setProperty("--aspect", item.width / item.height);
  element("prompt").textContent = item.prompt;
  element("item-title").textContent = `Item ${item.position + 1} of ${total}`;
  element("answers").reset();
  for (const [criterion, value] of Object.entries(item.answers ?? {})) {
    element("answers").elements.namedItem(criterion).value = value; // it may be called `length`
  }
  element("back").disabled = item.position === 0;
  settle(-1);
  showProgress(item.position);
  clock.reset();
  show(section);
  const position = item.position + 1;
  if (position < total && position <= open + 1) {
    following = { position, loaded: load(position).catch(() => null) };
  }
}

// ---- Answers

function chosen(fieldset) {
  const input = fieldset.querySelector("input:checked");
  return input === null ? null : Number(input.value);
}

function mark(place) {
  marked = Math.min(Math.max(place, 0), fieldsets.length - 1);
  fieldsets.forEach((fieldset, own) => fieldset.classList.toggle("marked", own === marked));
  const complete = fieldsets.every((fieldset) => chosen(fieldset) !== null);
  element("next").classList.toggle("ready", complete);
}

// Mark the first open question after one that was answered.
function settle(place) {
  const unanswered = fieldsets.findIndex((own, number) => number > place && chosen(own) === null);
  mark(unanswered >= 0 ? unanswered : place + 1);
  if (place >= 0) fieldsets[marked].scrollIntoView({ block: "nearest" });
}

function answer(key) {
  const fieldset = fieldsets[marked];
  const input = fieldset.querySelector(`input[data-key="${key}"]`);
  if (input === null) return;
  input.checked = true;
  const [question, given] = [fieldset.querySelector("legend"), input.parentElement];
  element("status").textContent = `${question.textContent}: ${given.textContent.trim()}`;
  notify(null);
  settle(marked);
}

async function next() {
  const values = fieldsets.map((fieldset) => [fieldset.dataset.criterion, chosen(fieldset)]);
  const missing = values.findIndex(([, value]) => value === null);
  if (missing >= 0) {
    mark(missing);
    fieldsets[missing].scrollIntoView({ block: "nearest" });
    notify("Please answer every question first.");
    return;
  }
  notify(null);
  const { position, part } = item;
  if (values.some(([criterion, value]) => item.answers?.[criterion] !== value)) {
    const stored = await send({
      id: newIdentifier(),
      task: item.task,
      answers: Object.fromEntries(values),
      seconds: Math.min(clock.read(), LONGEST_SECONDS),
      replaces: item.submission,
    });
    if (!stored) {
      await refresh();
      present(await insist(() => load(position)), "item");
      notify("This item was answered in another window. That answer counts; here you can change it.");
      return;
    }
  }
  open = Math.max(open, position + 1);
  await go(position + 1, part);
}

async function back() {
  if (item.position > 0) await go(item.position - 1);
}

// ---- The session

// One thing at a time; what goes wrong for good is told.
async function step(action) {
  if (busy) return;
  busy = true;
  document.body.classList.add("busy");
  try {
    await action();
  } catch (error) {
    notify(null);
    element("reason").textContent = error.message;
    show("stopped");
  } finally {
    busy = false;
    document.body.classList.remove("busy");
  }
}

async function refresh() {
  const state = await insist(() => call("/api/state"));
  ({ total, parts, open } = state);
  return state;
}

async function start() {
  const { consented } = await refresh();
  if (!consented) {
    show("welcome");
    return;
  }
  await sendWaiting();
  await refresh();
  if (open === 0) show("instructions");
  else await go(open);
}

async function agree() {
  await insist(() => call("/api/consent", {}));
  show("instructions");
}

// ---- Keys and buttons

function itemKey(event) {
  const inButton = event.target.closest("button") !== null;
  const inRadio = event.target.matches("input"); // where arrows choose, as in any form
  if (/^\d$/.test(event.key)) answer(event.key);
  else if (event.key === "Enter" && !inButton) step(next);
  else if (event.key === "ArrowRight" && !inRadio) step(next);
  else if (event.key === "ArrowLeft" && !inRadio) step(back);
  else if (event.key === "ArrowDown" && !inRadio) mark(marked + 1);
  else if (event.key === "ArrowUp" && !inRadio) mark(marked - 1);
  else if (event.key === "z" || event.key === "Z") enlargeFirst();
  else return;
  event.preventDefault();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || busy) return;
  if (isEnlarged()) zoomKey(event);
  else if (!element("item").hidden) itemKey(event);
});
document.addEventListener("visibilitychange", () => {
  clock.run(!document.hidden && !element("item").hidden);
});
element("answers").addEventListener("submit", (event) => {
  event.preventDefault();
  step(next);
});
element("answers").addEventListener("change", (event) => {
  notify(null);
  settle(fieldsets.indexOf(event.target.closest("fieldset")));
});
element("back").addEventListener("click", () => step(back));
element("agree").addEventListener("click", () => step(agree));
element("help").addEventListener("click", () => {
  element("begin").textContent = "Back to the item";
  show("instructions");
});
element("begin").addEventListener("click", () => {
  if (item === null) step(() => go(open));
  else show("item");
});
element("go-on").addEventListener("click", () => show("item"));
element("review").addEventListener("click", () => step(() => go(total - 1)));

step(start);
