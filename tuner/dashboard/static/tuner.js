// Live parts of a page: each is replaced when the server sends a new one. Pages also work without this script.
"use strict";

// Light or dark: a cookie holds the choice, so that the server sends the page in the right theme and nothing flashes.
document.getElementById("theme").addEventListener("click", (event) => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  document.cookie = `tuner_theme=${root.dataset.theme};path=${event.currentTarget.dataset.path};max-age=31536000;samesite=strict`;
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy], [data-copy-from]");
  if (!button) return;
  const text = button.dataset.copy ?? (await (await fetch(button.dataset.copyFrom)).text());
  let result = "Copied";
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    result = "Copying not allowed";  // browsers allow the clipboard only over HTTPS and on this machine
  }
  const label = button.textContent;
  button.textContent = result;
  setTimeout(() => { button.textContent = label; }, 1500);
});

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

function replaceParts(parts) {
  for (const [id, html] of Object.entries(parts)) {
    const part = document.getElementById(id);
    if (!part || part.querySelector(".dragging")) continue;
    // keep text that the user is typing, opened details, scroll positions and the keyboard focus
    const active = part.contains(document.activeElement) ? document.activeElement : null;
    if (active && active.matches("input, textarea, select")) continue;
    const path = active && (active.id ? `#${CSS.escape(active.id)}` : active.getAttribute("href") && `a[href="${CSS.escape(active.getAttribute("href"))}"]`);
    const opened = [...part.querySelectorAll("details")].map((details) => details.open);
    const scrolled = [...part.querySelectorAll(".scroll")].map((scroll) => scroll.scrollLeft);
    part.innerHTML = html;
    part.querySelectorAll("details").forEach((details, index) => { if (index in opened) details.open = opened[index]; });
    part.querySelectorAll(".scroll").forEach((scroll, index) => { if (index in scrolled) scroll.scrollLeft = scrolled[index]; });
    if (path) part.querySelector(path)?.focus({preventScroll: true});
  }
}

if (document.querySelector("[data-live]")) {
  const indicator = document.getElementById("connection");
  const indicate = (state, text) => { indicator.hidden = false; indicator.dataset.state = state; indicator.lastElementChild.textContent = text; };
  let source = null;
  const open = () => {
    source = new EventSource(location.pathname + location.search);
    source.onopen = () => indicate("on", "live");
    source.onmessage = (event) => { indicate("on", "live"); replaceParts(JSON.parse(event.data)); };
    source.addEventListener("away", () => indicate("off", "database unavailable"));
    source.onerror = () => { indicate("off", "reconnecting"); if (source.readyState === EventSource.CLOSED) setTimeout(retry, 3000); };
  };
  // browsers do not retry a refused stream: the database is unavailable, or the user is no longer signed in
  const retry = async () => {
    if (document.hidden || source?.readyState !== EventSource.CLOSED) return;
    const status = await fetch(location.href, {method: "HEAD", headers: {accept: "text/plain"}}).then((answer) => answer.status, () => 0);
    if (status !== 401) { indicate("off", status === 503 ? "database unavailable" : "reconnecting"); open(); return; }
    indicate("off", "signed out");
    // the reload redirects to the sign-in page and back; text that the user is typing is not lost
    if (!document.activeElement?.matches("input, textarea, select")) location.reload();
  };
  // a hidden page sends no requests
  const follow = () => {
    if (document.hidden) { source?.close(); source = null; } else if (!source) open();
  };
  document.addEventListener("visibilitychange", follow);
  addEventListener("pagehide", () => { source?.close(); source = null; });
  addEventListener("pageshow", follow);
  follow();
}
