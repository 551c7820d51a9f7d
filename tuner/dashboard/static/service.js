// The queue and the page of a new study. The queue also works without this script: its buttons do what dragging does.
"use strict";

const element = (tag, attributes = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);  // text stays text: nothing here is read as HTML
  return made;
};

// Queue: a study is dropped before or after another one.
document.addEventListener("dragstart", (event) => {
  const item = event.target.closest?.(".queue > [data-name]");
  if (!item) return;
  item.classList.add("dragging");
  event.dataTransfer.effectAllowed = "move";
  event.dataTransfer.setData("text/plain", item.dataset.name);
});
document.addEventListener("dragend", () => {
  for (const item of document.querySelectorAll(".dragging, .over")) item.classList.remove("dragging", "over");
});
document.addEventListener("dragover", (event) => {
  const item = event.target.closest?.(".queue > [data-name]");
  if (!item || !document.querySelector(".dragging")) return;
  event.preventDefault();
  for (const other of document.querySelectorAll(".over")) other.classList.remove("over");
  item.classList.add("over");
});
document.addEventListener("drop", async (event) => {
  const item = event.target.closest?.(".queue > [data-name]"), dragged = document.querySelector(".dragging");
  if (!item || !dragged || item === dragged) return;
  event.preventDefault();
  const box = item.getBoundingClientRect();
  const side = event.clientY > box.top + box.height / 2 ? "after" : "before";
  const form = new URLSearchParams({other: item.dataset.name, side});
  const address = `${item.parentElement.dataset.reorder}${encodeURIComponent(dragged.dataset.name)}/place`;
  const answer = await fetch(address, {method: "POST", body: form, headers: {accept: "text/html"}});
  const said = document.getElementById("said");
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const reason = page.querySelector(answer.ok ? ".said" : ".failure p bdi")?.textContent ?? "";
  said.textContent = reason;
  said.className = answer.ok ? "unseen" : "note";
  dragged.classList.remove("dragging");
  const list = page.getElementById("queue");
  if (answer.ok && list) document.getElementById("queue").replaceChildren(...list.childNodes);
});

// New study: the file is checked as one types.
const form = document.getElementById("new");
if (form) {
  const api = form.dataset.api, area = document.getElementById("file"), shown = document.getElementById("checked");
  let editor = null, asked = 0;
  const text = () => editor?.text() ?? area.value;
  const put = (value) => { area.value = value; editor?.replace(value); check(); };

  const facts = (title, pairs) => pairs.length === 0 ? [] : [
    element("h3", {textContent: title}),
    element("dl", {className: "facts tight"}, ...pairs.flatMap(({name, text}) => [element("dt", {textContent: name}), element("dd", {textContent: text})])),
  ];
  const problem = ({field, message, line, column}) => element("li", {},
    ...(line ? [element("button", {type: "button", className: "plain", textContent: `line ${line}`, onclick: () => editor?.goTo(line, column)}), " "] : []),
    ...(field ? [element("code", {textContent: field}), " "] : []), message);

  const check = async () => {
    const number = ++asked;
    const answer = await fetch(`${api}/validate`, {method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify({file: text()})}).catch(() => null);
    if (number !== asked) return;
    if (!answer?.ok) { shown.replaceChildren(element("p", {className: "quiet", textContent: "The file cannot be checked now."})); return; }
    const found = await answer.json();
    editor?.mark(found.problems);
    shown.replaceChildren(...(found.problems.length
      ? [element("ul", {className: "plain problems"}, ...found.problems.map(problem))]
      : [element("p", {className: "fine", textContent: "No mistakes."}), ...facts("Plan", found.plan), ...facts("Cost", found.cost)]));
  };
  let timer = null;
  const soon = () => { clearTimeout(timer); timer = setTimeout(check, 350); };

  if (window.tunerEditor) {
    const place = document.getElementById("editor");
    place.hidden = false;
    document.getElementById("plain").hidden = true;
    area.required = false;
    editor = window.tunerEditor.create(place, area.value, (value) => { area.value = value; soon(); });
    fetch(`${api}/schema`).then((answer) => answer.json()).then((schema) => editor.complete(schema), () => {});
  } else {
    area.addEventListener("input", soon);
  }
  check();
  // a repeated click or a reload submits once
  form.append(element("input", {type: "hidden", name: "key", value: crypto.randomUUID?.() ?? String(Math.random())}));

  // The folders of the server, with pictures.
  const folders = document.getElementById("folders");
  const use = (path) => {
    const lines = text().split("\n"), start = lines.findIndex((line) => /^data\s*:/.test(line));
    let end = start + 1;
    while (start >= 0 && end < lines.length && (/^\s+\S/.test(lines[end]) || !lines[end].trim())) end++;
    while (start >= 0 && end > start + 1 && !lines[end - 1].trim()) end--;
    const section = ["data:", "  source: folder", `  path: ${JSON.stringify(path)}`];
    if (start < 0) lines.push(...section); else lines.splice(start, end - start, ...section);
    put(lines.join("\n"));
    const said = element("p", {className: "fine", textContent: `The file reads ${path}.`});
    folders.prepend(said);
  };
  const open = async (path) => {
    const answer = await fetch(`${api}/data${path ? `?path=${encodeURIComponent(path)}` : ""}`);
    const found = await answer.json();
    if (!answer.ok) { folders.replaceChildren(element("p", {className: "quiet", textContent: found.detail})); return; }
    const row = (folder) => element("li", {},
      element("button", {type: "button", className: "plain", textContent: folder.name, onclick: () => open(folder.path)}),
      element("span", {className: "quiet", textContent: ` ${folder.num_images.toLocaleString("en")}${folder.has_more ? "+" : ""} images`}));
    const picture = (sample) => element("img", {src: `${api}/data/picture?path=${encodeURIComponent(sample)}`, alt: "", width: 72, height: 72, loading: "lazy"});
    folders.replaceChildren(
      element("p", {}, element("code", {textContent: found.path || "folders of this server"})),
      ...(found.samples.length ? [element("div", {className: "samples"}, ...found.samples.map(picture))] : []),
      element("ul", {className: "plain"}, ...found.folders.map(row)),
      element("div", {className: "buttons"},
        ...(found.path ? [element("button", {type: "button", textContent: "Up", onclick: () => open(found.parent ?? "")})] : []),
        ...(found.path ? [element("button", {type: "button", className: "main", textContent: "Use this folder", onclick: () => use(found.path)})] : [])));
  };
  document.getElementById("choose").addEventListener("toggle", (event) => { if (event.target.open) open(""); });

  const zip = document.getElementById("zip");
  zip?.addEventListener("change", async () => {
    const [file] = zip.files, said = document.getElementById("uploaded");
    if (!file) return;
    said.textContent = "Uploading …";
    const name = file.name.replace(/\.zip$/i, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "").slice(0, 100) || "images";
    const answer = await fetch(`${api}/data?name=${encodeURIComponent(name)}`, {method: "POST", body: file}).catch(() => null);
    const found = await answer?.json().catch(() => null);
    if (!answer?.ok) { said.textContent = found?.detail ?? "The upload failed."; return; }
    const left = Object.entries(found.left_out).map(([kind, count]) => `${count} ${kind}`).join(", ");
    said.textContent = `${found.num_images} images are in ${found.folder}${left ? `; left out: ${left}` : ""}.`;
    use(found.folder);
  });
}
