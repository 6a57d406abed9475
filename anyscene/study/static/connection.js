// The server, and answers that it has not confirmed yet: they are kept in this browser and sent
// again under the same identifier, so that each one counts once.

const RETRY_SECONDS = [1, 2, 4, 8, 15];
const PATIENCE_SECONDS = 20;
const ANY = "anyscene-study:";
const STUDY = `${ANY}${document.body.dataset.study}:`;
const KEPT = `${STUDY}${document.body.dataset.annotator}:`;

const box = document.getElementById("notice");
const retry = document.getElementById("retry");

export class Lost extends Error {} // the server did not answer

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Show a line above everything else; null takes it away.
export function notify(text, canRetry = false) {
  document.getElementById("notice-text").textContent = text ?? "";
  box.hidden = text === null;
  retry.hidden = !canRetry;
}

export async function call(path, body) {
  const options = { signal: AbortSignal.timeout(1000 * PATIENCE_SECONDS) };
  if (body !== undefined) {
    options.method = "POST";
    options.headers = { "Content-Type": "application/json", "X-Study": "1" };
    options.body = JSON.stringify(body);
  }
  let response, values;
  try {
    response = await fetch(path, options);
    values = await response.json();
  } catch (error) {
    throw new Lost(error.message);
  }
  if (response.status >= 500) throw new Lost(values.error);
  if (!response.ok) throw new Refused(response.status, values.error);
  return values;
}

// Do something until the server answers.
export async function insist(action) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      const result = await action();
      if (attempt > 0) notify(null);
      return result;
    } catch (error) {
      if (!(error instanceof Lost)) throw error;
      const kept =
        waiting().length > 0
          ? "Your answer is kept in this browser and will be sent, once, as soon as it is back."
          : "Nothing is lost. The page goes on as soon as it is back.";
      notify(`The connection is lost. ${kept}`, true);
      await pause(RETRY_SECONDS[Math.min(attempt, RETRY_SECONDS.length - 1)]);
    }
  }
}

function pause(seconds) {
  return new Promise((resolve) => {
    const stop = new AbortController();
    const done = () => {
      stop.abort();
      clearTimeout(timer);
      resolve();
    };
    const timer = setTimeout(done, 1000 * seconds);
    retry.addEventListener("click", done, { signal: stop.signal });
    window.addEventListener("online", done, { signal: stop.signal });
  });
}

function waiting() {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(KEPT));
  return keys.map((key) => JSON.parse(localStorage.getItem(key)));
}

function forget(submission) {
  localStorage.removeItem(KEPT + submission.id);
}

// True when the server has it on disk; false when another window answered the item meanwhile.
export async function send(submission) {
  localStorage.setItem(KEPT + submission.id, JSON.stringify(submission));
  let stored = true;
  try {
    await insist(() => call("/api/answer", submission));
  } catch (error) {
    if (error.status !== 409) throw error; // kept: the link of somebody else was opened since
    stored = false;
  }
  forget(submission);
  return stored;
}

// Send what a closed page left behind, and drop what is of a study that was at this address before.
export async function sendWaiting() {
  for (const key of Object.keys(localStorage)) {
    if (key.startsWith(ANY) && !key.startsWith(STUDY)) localStorage.removeItem(key);
  }
  for (const submission of waiting()) {
    try {
      await send(submission);
    } catch (error) {
      if (![400, 404].includes(error.status)) throw error;
      forget(submission); // the study, restored or served by newer software, has no use for it
    }
  }
}

export function newIdentifier() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
