// Editor of study files: YAML with completion from the JSON Schema, and mistakes at their lines.
import {autocompletion, completionKeymap} from "@codemirror/autocomplete";
import {defaultKeymap, history, historyKeymap} from "@codemirror/commands";
import {yaml} from "@codemirror/lang-yaml";
import {HighlightStyle, bracketMatching, indentOnInput, indentUnit, syntaxHighlighting} from "@codemirror/language";
import {lintGutter, lintKeymap, setDiagnostics} from "@codemirror/lint";
import {EditorState} from "@codemirror/state";
import {EditorView, drawSelection, highlightActiveLine, keymap, lineNumbers} from "@codemirror/view";
import {tags} from "@lezer/highlight";

// the colours are those of the page, in light and in dark
const theme = EditorView.theme({
  "&": {color: "var(--ink)", backgroundColor: "var(--ground)", fontSize: "13px"},
  "&.cm-focused": {outline: "2px solid var(--accent)", outlineOffset: "-2px"},
  ".cm-scroller": {fontFamily: 'ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace', lineHeight: "1.55", minHeight: "380px", maxHeight: "70vh", overflow: "auto"},
  ".cm-content": {caretColor: "var(--ink)"},
  ".cm-cursor": {borderLeftColor: "var(--ink)"},
  ".cm-gutters": {backgroundColor: "var(--ground)", color: "var(--quiet)", border: "0"},
  ".cm-activeLine, .cm-activeLineGutter": {backgroundColor: "var(--soft)"},
  "&.cm-focused .cm-selectionBackground, .cm-selectionBackground": {backgroundColor: "var(--accent-soft) !important"},
  ".cm-tooltip": {backgroundColor: "var(--card)", color: "var(--ink)", border: "1px solid var(--line)", borderRadius: "8px"},
  ".cm-tooltip-autocomplete ul li[aria-selected]": {backgroundColor: "var(--accent)", color: "var(--on-accent)"},
  ".cm-diagnostic": {padding: "6px 10px", whiteSpace: "normal", maxWidth: "46ch"},
  ".cm-completionInfo": {maxWidth: "40ch", padding: "6px 10px"},
});
const colours = HighlightStyle.define([
  {tag: [tags.propertyName, tags.definition(tags.propertyName)], color: "var(--accent)"},
  {tag: [tags.string, tags.content], color: "var(--ink)"},
  {tag: [tags.number, tags.bool, tags.null, tags.keyword], color: "var(--good)"},
  {tag: tags.comment, color: "var(--quiet)", fontStyle: "italic"},
  {tag: [tags.punctuation, tags.separator, tags.meta], color: "var(--quiet)"},
]);

const resolve = (schema, node) => {
  while (node?.$ref) node = node.$ref.slice(2).split("/").reduce((found, key) => found?.[key], schema);
  return node ?? {};
};
// a node and its alternatives, flat
const alternatives = (schema, node) => {
  const found = resolve(schema, node);
  const several = found.anyOf ?? found.oneOf;
  return several ? several.flatMap((one) => alternatives(schema, one)) : [found];
};
const descend = (schema, keys) => keys.reduce(
  (nodes, key) => nodes.flatMap((node) => (node.properties?.[key] ? alternatives(schema, node.properties[key]) : [])), [schema]);

// the keys around a line, by their indentation
const keysAround = (state, line) => {
  const keys = [];
  let indent = line.text.search(/\S|$/);
  for (let number = line.number - 1; number >= 1 && indent > 0; number--) {
    const text = state.doc.line(number).text, depth = text.search(/\S/);
    const key = text.match(/^\s*([\w.-]+)\s*:/)?.[1];
    if (depth >= 0 && depth < indent && key) { keys.unshift(key); indent = depth; }
  }
  return keys;
};

const values = (schema, nodes) => nodes.flatMap((node) => {
  const found = node.enum ?? ("const" in node ? [node.const] : node.type === "boolean" ? [true, false] : node.type === "null" ? [null] : []);
  return [...found, ...(node.examples ?? [])].filter((value) => typeof value !== "object" || value === null);
});

const complete = (schema) => (context) => {
  const line = context.state.doc.lineAt(context.pos), before = line.text.slice(0, context.pos - line.from);
  const pair = before.match(/^\s*([\w.-]+)\s*:\s+([\w./-]*)$/);
  const around = descend(schema, keysAround(context.state, line));
  if (pair) {
    const nodes = around.flatMap((node) => (node.properties?.[pair[1]] ? [node.properties[pair[1]]] : []));
    const found = [...new Set(nodes.flatMap((node) => values(schema, [node, ...alternatives(schema, node)])).map((value) => String(value)))];
    return found.length ? {from: context.pos - pair[2].length, validFor: /^[\w./-]*$/, options: found.map((label) => ({label, type: "enum"}))} : null;
  }
  const key = before.match(/^\s*([\w.-]*)$/);
  if (!key || (!key[1] && !context.explicit)) return null;
  const options = new Map();
  for (const node of around) for (const [label, each] of Object.entries(node.properties ?? {})) {
    const isSection = alternatives(schema, each).every((one) => one.properties);
    if (!options.has(label)) options.set(label, {label, type: "property", info: each.description, apply: isSection ? `${label}:\n${" ".repeat(before.search(/\S|$/) + 2)}` : `${label}: `});
  }
  return options.size ? {from: context.pos - key[1].length, validFor: /^[\w.-]*$/, options: [...options.values()]} : null;
};

window.tunerEditor = {
  // The editor is in a shadow root: there, browsers take style sheets that a strict policy forbids in the page.
  create(place, text, changed) {
    const root = place.attachShadow({mode: "open"});
    let schema = {};
    const view = new EditorView({
      root, parent: root,
      state: EditorState.create({
        doc: text,
        extensions: [
          lineNumbers(), history(), drawSelection(), indentOnInput(), indentUnit.of("  "), bracketMatching(), highlightActiveLine(), yaml(),
          syntaxHighlighting(colours), lintGutter(), autocompletion({override: [(context) => complete(schema)(context)]}), theme, EditorView.lineWrapping,
          keymap.of([...completionKeymap, ...lintKeymap, ...historyKeymap, ...defaultKeymap]),
          EditorView.contentAttributes.of({"aria-label": "Study file in YAML", spellcheck: "false"}),
          EditorView.updateListener.of((update) => { if (update.docChanged) changed(update.state.doc.toString()); }),
        ],
      }),
    });
    const at = (line, column) => {
      const found = view.state.doc.line(Math.min(Math.max(line, 1), view.state.doc.lines));
      return {found, position: Math.min(found.from + Math.max(column - 1, 0), found.to)};
    };
    return {
      text: () => view.state.doc.toString(),
      replace: (value) => view.dispatch({changes: {from: 0, to: view.state.doc.length, insert: value}}),
      complete: (given) => { schema = given; },
      goTo: (line, column) => {
        view.dispatch({selection: {anchor: at(line, column ?? 1).position}, scrollIntoView: true});
        view.focus();
      },
      mark: (problems) => view.dispatch(setDiagnostics(view.state, problems.map(({field, message, line, column}) => {
        const {found, position} = at(line ?? 1, column ?? 1);
        return {from: position, to: Math.max(found.to, position), severity: "error", message: field ? `${field} ${message}` : message};
      }))),
    };
  },
};
