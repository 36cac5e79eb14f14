// Keeps the regions marked data-live fresh: one event stream says that something changed, the page is
// then asked for again and regions that differ are exchanged. The server stays the only one to render.

const status = document.getElementById("connection");
const refreshed = document.getElementById("refreshed");
const REFRESH_MS = 1000;

let stream = null;
let isRefreshing = false;
let isStale = false;

/** Follow topics; `onNews` is called after each refresh. Closed while nobody looks: browsers allow an
 * origin six connections over HTTP/1.1, and a hidden tab would hold one. */
export function follow(topics, onNews = () => {}) {
  const refreshSoon = () => refresh(onNews);
  const open = () => {
    if (stream !== null || document.hidden) return;
    stream = new EventSource(`/api/v1/stream?topics=${encodeURIComponent(topics)}`);
    stream.onopen = () => show("live", "live");
    stream.onerror = () => show("lost", "connection lost, trying again");
    for (const name of ["event", "jobs", "pods", "job"]) stream.addEventListener(name, refreshSoon);
  };
  const close = () => {
    stream?.close();
    stream = null;
    show("paused", "paused");
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  open();
}

async function refresh(onNews) {
  isStale = true;
  if (isRefreshing) return;
  isRefreshing = true;
  try {
    while (isStale) {
      isStale = false;
      await exchange();
      await onNews();
      await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
    }
  } catch {
    show("lost", "the controller does not answer");
  } finally {
    isRefreshing = false;
  }
}

async function exchange() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) throw new Error(answer.statusText);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const region of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(region.id);
    if (next !== null && next.innerHTML !== region.innerHTML && !region.contains(document.activeElement)) {
      region.replaceChildren(...document.adoptNode(next).childNodes);
    }
  }
  show("live", "live");
  refreshed.textContent = new Date().toISOString().slice(11, 19);
}

function show(state, text) {
  if (status.dataset.state === state) return; // said aloud by screen readers at every change
  status.dataset.state = state;
  status.textContent = text;
}
