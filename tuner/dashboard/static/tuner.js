// What is live on a page of tuner: its parts are replaced as the server sends them. Everything else works without this file.
"use strict";

// Light or dark: the choice is kept in a cookie, so that the server sends the page in it and nothing flashes.
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  document.cookie = `tuner_theme=${root.dataset.theme};path=/;max-age=31536000;samesite=strict`;
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy], [data-copy-from]");
  if (!button) return;
  const given = button.dataset.copy ?? (await (await fetch(button.dataset.copyFrom)).text());
  let said = "Copied";
  try {
    await navigator.clipboard.writeText(given);
  } catch {
    said = "Not allowed here";  // a browser gives the clipboard to https and to this machine only
  }
  const label = button.textContent;
  button.textContent = said;
  setTimeout(() => { button.textContent = label; }, 1500);
});

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

function show(parts) {
  for (const [id, html] of Object.entries(parts)) {
    const place = document.getElementById(id);
    if (!place) continue;
    // what someone is typing into, or has opened, stays; so does the keyboard's place
    const active = place.contains(document.activeElement) ? document.activeElement : null;
    if (active && active.matches("input, textarea, select")) continue;
    const path = active && (active.id ? `#${CSS.escape(active.id)}` : active.getAttribute("href") && `a[href="${CSS.escape(active.getAttribute("href"))}"]`);
    const opened = [...place.querySelectorAll("details")].map((details) => details.open);
    const scrolled = [...place.querySelectorAll(".scroll")].map((scroll) => scroll.scrollLeft);
    place.innerHTML = html;
    place.querySelectorAll("details").forEach((details, at) => { if (at in opened) details.open = opened[at]; });
    place.querySelectorAll(".scroll").forEach((scroll, at) => { if (at in scrolled) scroll.scrollLeft = scrolled[at]; });
    if (path) place.querySelector(path)?.focus({preventScroll: true});
  }
}

if (document.querySelector("[data-live]")) {
  const light = document.getElementById("connection");
  const say = (state, words) => { light.hidden = false; light.dataset.state = state; light.lastElementChild.textContent = words; };
  let source = null;
  const open = () => {
    source = new EventSource(location.pathname + location.search);
    source.onopen = () => say("on", "live");
    source.onmessage = (event) => { say("on", "live"); show(JSON.parse(event.data)); };
    source.addEventListener("away", () => say("off", "database away"));
    source.onerror = () => { say("off", "reconnecting"); if (source.readyState === EventSource.CLOSED) setTimeout(again, 3000); };
  };
  // a browser gives up a stream that is refused: the database is away, or whoever looks is no longer signed in
  const again = async () => {
    if (document.hidden || source?.readyState !== EventSource.CLOSED) return;
    const status = await fetch(location.href, {method: "HEAD", headers: {accept: "text/plain"}}).then((answer) => answer.status, () => 0);
    if (status !== 401) { say("off", status === 503 ? "database away" : "reconnecting"); open(); return; }
    say("off", "signed out");
    // leads to the page on which one signs in, and back; what someone is typing is not taken from him
    if (!document.activeElement?.matches("input, textarea, select")) location.reload();
  };
  // a page that no one sees asks for nothing
  const follow = () => {
    if (document.hidden) { source?.close(); source = null; } else if (!source) open();
  };
  document.addEventListener("visibilitychange", follow);
  addEventListener("pagehide", () => { source?.close(); source = null; });
  addEventListener("pageshow", follow);
  follow();
}
