// Bundles editor.js into the one file that the dashboard serves, and collects the licences of what is in it.
import {build} from "esbuild";
import {readFileSync, readdirSync, writeFileSync} from "node:fs";

const to = new URL("../tuner/dashboard/static/editor.js", import.meta.url).pathname;
const made = await build({
  entryPoints: ["editor.js"], bundle: true, minify: true, format: "iife", target: "es2022", charset: "ascii", legalComments: "none",
  metafile: true, write: false, banner: {js: "/* CodeMirror 6 and parts of Lezer, MIT licence: see editor.LICENSE.txt. Built by editor/build.mjs. */"},
});
writeFileSync(to, made.outputFiles[0].contents);
const packages = [...new Set(Object.keys(made.metafile.inputs).flatMap((path) => path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/)?.slice(1) ?? []))].sort();
const licences = packages.map((name) => {
  const folder = new URL(`node_modules/${name}/`, import.meta.url);
  const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
  const {version} = JSON.parse(readFileSync(new URL("package.json", folder)));
  return `${name} ${version}\n\n${readFileSync(new URL(file, folder), "utf8").trim()}\n`;
});
writeFileSync(to.replace(/\.js$/, ".LICENSE.txt"), licences.join(`\n${"-".repeat(80)}\n\n`));
console.log(`${to}: ${made.outputFiles[0].contents.length} bytes of ${packages.join(", ")}`);
