"use strict";
// Everything that came from a dataset is put into the page as text (textContent), never as HTML.

const values = JSON.parse(document.getElementById("values").textContent);
const main = document.getElementById("page");

// ---- making elements

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

const isOdd = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

// A text in which what would be unseen, or would turn the reading direction, stands as its code.
function shown(text, search) {
  const pieces = [];
  let done = 0;
  for (const odd of String(text).matchAll(isOdd)) {
    pieces.push(...marked(text.slice(done, odd.index), search));
    const code = "\\u" + odd[0].charCodeAt(0).toString(16).padStart(4, "0");
    pieces.push(el("span", { class: "code" }, code));
    done = odd.index + odd[0].length;
  }
  pieces.push(...marked(String(text).slice(done), search));
  return pieces;
}

function marked(text, search) {
  if (!search) return text ? [text] : [];
  const pieces = [];
  const folded = text.toLowerCase(), wanted = search.toLowerCase();
  if (folded.length !== text.length) return [text]; // some letters change their length: no place can be told
  let done = 0;
  for (let at = folded.indexOf(wanted); at >= 0; at = folded.indexOf(wanted, done)) {
    pieces.push(text.slice(done, at), el("mark", {}, text.slice(at, at + wanted.length)));
    done = at + wanted.length;
  }
  pieces.push(text.slice(done));
  return pieces;
}

const mono = (text) => el("span", { class: "mono" }, shown(text));

// ---- numbers for people (as bamba_data/inspect/units.py)

const full = (count) => count.toLocaleString("en-US");

function short(count) {
  for (const [size, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
    if (count >= size * 0.9995) {
      const value = count / size;
      return value.toFixed(value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2) + letter;
    }
  return Number.isInteger(count) ? full(count) : count.toFixed(1);
}

function bytes(count) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (count < 1000) return unit === "B" ? `${full(count)} B` : `${count.toFixed(1)} ${unit}`;
    count /= 1000;
  }
  return `${count.toFixed(2)} TB`;
}

function percent(share) {
  if (share > 0 && share < 0.0001) return "<0.01%";
  return `${(100 * share).toFixed(share >= 0.1 ? 1 : 2)}%`;
}

function seconds(count) {
  return count < 90 ? `${count.toFixed(1)} s` : count < 5400 ? `${(count / 60).toFixed(1)} min` : `${(count / 3600).toFixed(1)} h`;
}

function money(value, currency) {
  if (value > 0 && value < 0.0001) return `<${currency}0.0001`;
  return currency + (value === 0 ? "0" : value < 0.1 ? value.toPrecision(2) : full(Number(value.toFixed(2))));
}

const sum = (counts) => Object.values(counts).reduce((total, count) => total + count, 0);
const plural = (count, word) => `${full(count)} ${word}${count === 1 ? "" : "s"}`;

function numbers(pairs) {
  return el("dl", { class: "numbers" }, pairs.filter(Boolean).map(([name, value, small]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value, small ? el("small", {}, small) : null))));
}

function facts(pairs) {
  return el("dl", { class: "facts" }, pairs.filter(Boolean).flatMap(([name, ...value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

// On a phone each cell says its own name.
function table(names, rows) {
  const isNumber = (n) => rows.length && rows.every((row) => typeof row[n] === "number");
  const cell = (value, n) => el("td", { "data-name": names[n], ...(isNumber(n) ? { class: "right" } : {}) },
    el("span", {}, typeof value === "number" ? full(value) : value));
  return el("table", {},
    el("thead", {}, el("tr", {}, names.map((name, n) => el("th", isNumber(n) ? { class: "right" } : {}, name)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map(cell)))));
}

const sections = [];
function section(id, title, ...children) {
  sections.push([id, title]);
  return el("section", { id }, el("h2", {}, title), children);
}

// ---- the head

function head() {
  const data = values.dataset;
  const title = data ? data.name : values.runs.length ? values.runs[0].recipe : "";
  document.title = `${title} · bamba-data`;
  const top = [el("h1", { dir: "auto" }, shown(title)), el("div", { class: "soft" }, mono(values.url))];
  if (!data) return [...top, el("p", { class: "note" }, "Nothing is published here yet: this is how its runs went.")];
  const lost = data.totals.read - data.totals.kept;
  top.push(el("div", { class: "pills" },
    el("span", { class: "pill" }, `version ${data.version}`),
    el("span", { class: "pill" }, `published ${data.published_at.replace("T", " ").replace("+00:00", " UTC")}`),
    data.derived ? el("span", { class: "pill second" }, `derived by ${data.derived}`) : null));
  top.push(numbers([
    ["tokens", short(data.totals.tokens), full(data.totals.tokens)],
    ["documents", short(data.totals.kept), `${short(data.totals.tokens / Math.max(1, data.totals.kept))} tokens each`],
    ["stored", bytes(data.size_bytes), `${(data.size_bytes / Math.max(1, data.totals.tokens)).toFixed(2)} bytes a token`],
    ["sources", full(values.sources_in_all), plural(data.shards, "shard")],
    ["lost", short(lost), `${percent(lost / Math.max(1, data.totals.read))} of ${short(data.totals.read)} read`],
  ]));
  return top;
}

// ---- documents

function documentCard(one, search) {
  const inside = el("div", { class: "inside" });
  const card = el("details", { class: "doc" },
    el("summary", {},
      el("span", { class: "top" },
        el("span", { class: "id", dir: "auto" }, shown(one.id || "(no id)", search), one.id.length < one.id_chars ? "…" : ""),
        el("span", {}, shown(one.source)), el("span", {}, plural(one.tokens, "token"))),
      el("span", { class: "excerpt", dir: "auto" }, shown(one.text.slice(0, 400).replace(/\s+/g, " "), search))),
    inside);
  card.addEventListener("toggle", () => {
    if (!card.open || inside.childNodes.length) return;
    inside.append(
      el("div", { class: "text", dir: "auto", tabindex: "0" }, shown(one.text, search), one.cut ? el("span", { class: "soft" }, " … (cut here)") : ""),
      facts([
        ["came from", el("bdi", {}, shown(one.url))],
        ["line or row", full(one.row), " (from 0) of ", el("bdi", {}, shown(one.file))],
        ["file’s sha256", one.sha256 ? mono(one.sha256) : "not known: the file was not read to its end"],
        one.id.length < one.id_chars ? ["id", `${full(one.id_chars)} characters, of which ${full(one.id.length)} are shown`] : null,
        ["stored at", mono(`${one.shard}:${one.shard_row}`), ` (block ${full(one.block)})`],
        ["document", `${full(one.number)} of its source (from 0), ${plural(one.tokens, "token")}`],
        ["written by", shown(one.software || "not said")],
        ["proof", mono(`bamba-data trace ${quoted(values.url)} ${one.shard}:${one.shard_row}`)],
      ]));
  });
  return card;
}

// For a shell: what people copy must mean what they see.
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

function sourceSelect(all) {
  return el("select", { "aria-label": "source" }, all ? el("option", { value: "" }, all) : null,
    values.sources.map((source) => el("option", { value: source.name }, shown(source.name).map((piece) => piece.textContent ?? piece))));
}

function sampledDocuments() {
  const every = values.samples.flatMap((one) => one.documents);
  const of = values.samples.reduce((total, one) => total + one.of, 0);
  const search = el("input", { type: "search", placeholder: "Search these samples", "aria-label": "search" });
  const source = sourceSelect("all sources");
  const list = el("div", {}), said = el("p", { class: "note", "aria-live": "polite" });
  let room = 8;
  const draw = () => {
    const wanted = search.value.trim().toLowerCase();
    const found = every.filter((one) => (!source.value || one.source === source.value)
      && (!wanted || one.text.toLowerCase().includes(wanted) || one.id.toLowerCase().includes(wanted)));
    said.textContent = `${full(found.length)} of ${plural(every.length, "sample")}, drawn evenly from ${plural(of, "document")}; `
      + "a text is cut after 2,000 characters.";
    list.replaceChildren(...turns(found, !source.value && !wanted).slice(0, room).map((one) => documentCard(one, wanted)));
    if (found.length > room) {
      const more = el("button", { type: "button" }, `Show ${full(Math.min(40, found.length - room))} more`);
      more.addEventListener("click", () => { room += 40; draw(); });
      list.append(more);
    }
  };
  for (const input of [search, source]) input.addEventListener("input", () => { room = 8; draw(); });
  draw();
  return section("documents", "Documents", said, faults(values.samples.flatMap((one) => one.faults)),
    el("div", { class: "tools" }, search, source), list);
}

// Sources take turns, so that the first screen shows all of them.
function turns(found, wanted) {
  if (!wanted) return found;
  const lines = new Map();
  for (const one of found) (lines.get(one.source) || lines.set(one.source, []).get(one.source)).push(one);
  const mixed = [];
  for (let n = 0; mixed.length < found.length; n++) for (const line of lines.values()) if (n < line.length) mixed.push(line[n]);
  return mixed;
}

const faults = (all) => all.map((fault) => el("p", { class: "fault" }, shown(`Could not be read: ${fault}`)));

// With a server: every document, by its number, and a search through all texts of a source.
function servedDocuments() {
  const token = new URLSearchParams(location.search).get("token");
  const search = el("input", { type: "search", placeholder: "Search every text and id of this source", "aria-label": "search", maxlength: "200" });
  const from = el("input", { type: "number", min: "0", value: "0", "aria-label": "first document", title: "from document" });
  const source = sourceSelect();
  const list = el("div", {}), said = el("p", { class: "note", "aria-live": "polite" });
  const more = el("button", { type: "button" }, "More"), stop = el("button", { type: "button" }, "Stop");
  let next = 0, run = 0, shownCount = 0, looked = 0;
  const ask = async (wanted) => {
    const mine = run;
    more.disabled = true;
    stop.hidden = !search.value;
    for (let got = 0; got < wanted && next !== null && mine === run;) {
      const asked = new URLSearchParams({ source: source.value, from: String(next), search: search.value, limit: String(wanted - got) });
      let reply;
      try {
        const response = await fetch(`documents?${asked}`, { headers: { Authorization: `Bearer ${token}` } });
        reply = await response.json();
      } catch {
        reply = { error: "the server does not answer: is it still running?" };
      }
      if (mine !== run) return;
      if (reply.error) { said.textContent = reply.error; more.disabled = false; stop.hidden = true; return; }
      list.append(...reply.documents.map((one) => documentCard(one, search.value.trim())));
      got += reply.documents.length;
      shownCount += reply.documents.length;
      looked += reply.looked_at;
      next = reply.next;
      said.textContent = search.value
        ? `${full(shownCount)} found in ${plural(looked, "document")} of ${full(reply.of)}` + (next === null ? "; that was the last." : ".")
        : `${plural(shownCount, "document")} of ${full(reply.of)}, from number ${full(Number(from.value) || 0)}.`;
    }
    if (mine !== run) return;
    more.disabled = next === null;
    stop.hidden = true;
  };
  const begin = () => {
    run += 1;
    [next, shownCount, looked] = [Math.max(0, Math.floor(Number(from.value) || 0)), 0, 0];
    list.replaceChildren();
    ask(20);
  };
  let typed;
  search.addEventListener("input", () => { clearTimeout(typed); typed = setTimeout(begin, 300); });
  source.addEventListener("input", () => { from.value = "0"; begin(); });
  from.addEventListener("change", begin);
  more.addEventListener("click", () => ask(20));
  stop.addEventListener("click", () => { run += 1; stop.hidden = true; more.disabled = next === null; });
  begin();
  return section("documents", "Documents", said, el("div", { class: "tools" }, search, source, from), list, el("div", { class: "tools" }, more, stop));
}

// ---- the mix

function mix() {
  const total = Math.max(1, values.dataset.totals.tokens), plan = values.plan;
  const rows = el("div", {});
  const named = new Set(values.sources.map((source) => source.name));
  const draw = (stretch) => {
    const shares = stretch ? stretch.shares : {};
    const largest = Math.max(...values.sources.map((source) => source.account.tokens / total), ...Object.values(shares), 1e-9);
    const row = (name, actual, planned, note) => {
      const bar = (share, kind) => {
        const made = el("div", { class: share ? kind : `${kind} none` });
        made.style.width = `${100 * share / largest}%`;
        return made;
      };
      return el("div", { class: "mixrow" }, el("span", {}, shown(name)),
        el("div", { class: "bars" }, actual === null ? null : bar(actual, "bar"), stretch ? bar(planned, "bar second") : null),
        el("span", { class: "value right" }, actual === null ? null : el("div", {}, percent(actual)),
          stretch ? el("div", { class: "soft" }, planned ? percent(planned) : "left out", note) : null));
    };
    const sources = values.sources.map((source) => {
      const planned = shares[source.name] || 0;
      const epoch = planned ? ` · epoch ${short(Math.round(source.account.tokens / planned))}` : "";
      return row(source.name, source.account.tokens / total, planned, epoch);
    });
    const others = Object.keys(shares).filter((name) => !named.has(name)).map((name) => row(name, null, shares[name], " · not here"));
    rows.replaceChildren(...sources, ...others);
  };
  const said = [el("p", { class: "note" }, el("span", { class: "key" }), "share of the tokens, as the dataset is",
    plan ? [el("br"), el("span", { class: "key second" }), "share of the rows, as ", mono(plan.name),
      " weighs them; an epoch is how many tokens of training go by until the source was read once"] : null)];
  if (plan) {
    const name = (stretch) => `from row ${full(stretch.first_row)}` + (stretch.end === null ? " on" : ` to ${full(stretch.end)}`)
      + `, batches of ${full(stretch.batch_rows)}`;
    const choice = el("select", { "aria-label": "stretch of the plan" },
      plan.stretches.map((stretch, n) => el("option", { value: String(n) }, name(stretch))));
    choice.addEventListener("input", () => draw(plan.stretches[Number(choice.value)]));
    said.push(el("div", { class: "tools" }, choice));
    if (plan.of > plan.stretches.length) said.push(el("p", { class: "note" }, `The first ${full(plan.stretches.length)} of ${full(plan.of)} stretches.`));
    if (plan.strangers.length) said.push(el("p", { class: "fault" }, "Planned for other data than is here: ", shown(plan.strangers.join(", "))));
  }
  draw(plan ? plan.stretches[0] : null);
  return section("mix", "Mix", said, rows, more_sources());
}

const more_sources = () => values.sources_in_all > values.sources.length
  ? el("p", { class: "note" }, `The ${full(values.sources.length)} sources with the most tokens, of ${full(values.sources_in_all)}.`) : null;

// ---- lengths

function lengths() {
  const { edges, one_in, histograms } = values.lengths;
  const low = Math.log10(edges[0]), span = Math.log10(edges[edges.length - 1]) - low || 1;
  const place = (tokens) => 100 * (Math.log10(Math.max(tokens, edges[0])) - low) / span;
  const ticks = [];
  for (let power = Math.ceil(low); power <= low + span; power++) ticks.push(10 ** power);
  if (ticks.length < 2) ticks.splice(0, ticks.length, Math.ceil(edges[0]), Math.floor(edges[edges.length - 1]));
  const kind = (at) => (at < 4 ? { class: "first" } : at > 92 ? { class: "last" } : {});
  const axis = () => el("div", { class: "axis", "aria-hidden": "true" }, ticks.map((tick) => {
    const made = el("span", kind(place(tick)), short(tick).replace(/\.0+(?=\D|$)/, ""));
    made.style.left = `${place(tick)}%`;
    return made;
  }));
  const picture = (one) => {
    // A height is documents per width of the bin on this axis: bins of one token at the left are narrower than others.
    const widths = one.counts.map((_, n) => place(edges[n + 1]) - place(edges[n]));
    const heights = one.counts.map((count, n) => count / (widths[n] || 1));
    const highest = Math.max(...heights, 1e-9);
    const plot = el("div", { class: "plot", role: "img", "aria-label": `tokens a document, median ${short(one.quantiles["0.5"] || 0)}` });
    one.counts.forEach((count, n) => {
      if (!count) return;
      const made = el("i", { title: `${full(Math.ceil(edges[n]))} to ${full(Math.floor(edges[n + 1]))} tokens: ${plural(count, "document")}` });
      Object.assign(made.style, { left: `${place(edges[n])}%`, width: `${widths[n]}%`, height: `${Math.max(1.5, 100 * heights[n] / highest)}%` });
      plot.append(made);
    });
    if (one.measured) {
      const median = el("b", { title: "median" });
      median.style.left = `${place(one.quantiles["0.5"])}%`;
      plot.append(median);
    }
    return [plot, axis()];
  };
  const cards = histograms.map((one) => el("div", { class: "card" }, el("h3", {}, shown(one.source)),
    one.fault ? faults([one.fault]) : one.measured ? [
      el("div", { class: "line soft" }, el("span", {}, `median ${short(one.quantiles["0.5"])}`), el("span", {}, `mean ${short(one.mean)}`),
        el("span", {}, `${short(one.shortest)} to ${short(one.longest)}`)),
      picture(one),
      el("div", { class: "line note" }, el("span", {}, `90% below ${short(one.quantiles["0.9"])}`), el("span", {}, `99% below ${short(one.quantiles["0.99"])}`)),
    ] : el("p", { class: "note" }, one.documents ? "none of its documents is among those listed in the manifest" : "no document")));
  const measured = histograms.reduce((total, one) => total + one.measured, 0);
  const how = one_in === 1 ? `All ${plural(measured, "document")} were counted.`
    : `${plural(measured, "document")} were counted: one in ${one_in}, chosen by a hash of the id.`;
  return section("lengths", "Lengths", el("p", { class: "note" }, `Tokens a document, on one logarithmic axis; the dashed line is the median. ${how}`),
    el("div", { class: "grid" }, cards));
}

// ---- licences, ledger

function licences() {
  return section("licences", "Sources and licences", el("div", { class: "grid" }, values.sources.map((source) => el("div", { class: "card" },
    el("h3", {}, shown(source.name)),
    facts([
      ["licence", shown(source.license || "not said")],
      source.attribution ? ["attribution", el("bdi", {}, shown(source.attribution))] : null,
      source.homepage ? ["homepage", mono(source.homepage)] : null,
      ["read from", mono(source.base), source.revision ? [" at ", mono(source.revision.slice(0, 12))] : ""],
      ["holds", `${short(source.account.tokens)} tokens in ${plural(source.account.kept, "document")}`],
      ["stored", `${bytes(source.size_bytes)} in ${plural(source.shards, "shard")}, from ${plural(source.files, "file")}`],
      source.quarantined ? ["left out", `${plural(source.quarantined, "file")} by the recipe’s word`] : null,
    ])))), more_sources());
}

function ledger() {
  const accounts = values.sources.map((source) => {
    const { read, kept, dropped, dead_lettered, notes } = source.account;
    const part = (count, kind) => {
      const made = el("i", { class: kind, title: `${full(count)} ${kind}` });
      made.style.flexGrow = String(count);
      return count ? made : null;
    };
    const reasons = (counts, verb) => Object.entries(counts).map(([reason, count]) => el("span", {}, `${full(count)} `, shown(reason), ` ${verb}`));
    return el("div", { class: "card" }, el("h3", {}, shown(source.name)),
      el("div", { class: "stack" }, part(kept, "kept"), part(sum(dropped), "dropped"), part(sum(dead_lettered), "dead")),
      el("div", { class: "line" }, el("span", {}, `${full(kept)} kept of ${full(read)} read`), reasons(dropped, "dropped"),
        reasons(dead_lettered, "dead-lettered"), reasons(notes, "noted")));
  });
  const { shown: listed, of, all } = values.files;
  const files = !of ? el("p", { class: "note" }, `All ${plural(all, "input")} kept every record.`) : [
    el("h3", {}, "Inputs that lost records"),
    el("p", { class: "note" }, `${full(listed.length)} of ${full(of)} such inputs, the largest loss first; there are ${plural(all, "input")}.`),
    table(["input", "read", "kept", "why"], listed.map((one) => [
      [el("bdi", { class: "mono" }, shown(`${one.source}/${one.path}`))], one.read, one.kept,
      one.reasons.map(([action, reason, count]) => `${full(count)} ${reason} ${action.replace("_", "-")}`).join(", ")
        + (one.quarantined ? " left out" : "") + (one.complete ? "" : " not read to its end")]))];
  const { shown: records, of: letters } = values.letters;
  return section("ledger", "Ledger", el("p", { class: "note" }, el("span", { class: "key" }), "kept  ", el("span", { class: "key second" }), "dropped: only counted.  ",
    "A dead letter is kept with its raw bytes."), el("div", { class: "grid" }, accounts), el("br"), files, faults(values.letters.faults),
    letters ? [el("h3", {}, "Dead letters"), el("p", { class: "note" }, `${full(records.length)} of ${full(letters)}: some of each source and reason.`),
      records.map(letter)] : null);
}

function letter(one) {
  const inside = el("div", { class: "inside" });
  const card = el("details", { class: "doc" }, el("summary", {}, el("span", { class: "top" },
    el("span", { class: "pill bad" }, shown(one.reason)), el("span", { class: "id", dir: "auto" }, shown(`${one.source}/${one.path}`)),
    el("span", {}, `line or row ${full(one.row)}`), el("span", {}, bytes(one.raw_bytes))), el("span", { class: "excerpt" }, shown(one.detail))), inside);
  card.addEventListener("toggle", () => {
    if (!card.open || inside.childNodes.length) return;
    const raw = Uint8Array.from(one.raw.match(/../g) || [], (pair) => parseInt(pair, 16));
    inside.append(facts([["why", shown(one.detail || one.reason)], one.offset >= 0 ? ["offset", `byte ${full(one.offset)} of the text of the file`] : null,
      ["sha256", mono(one.raw_sha256)]]),
      el("div", { class: "hex", tabindex: "0" }, hexDump(raw)),
      raw.length < one.raw_bytes ? el("p", { class: "note" }, `The first ${full(raw.length)} of ${full(one.raw_bytes)} bytes.`) : "");
  });
  return card;
}

// 8 bytes a line, which a phone has room for.
function hexDump(raw) {
  const lines = [];
  for (let at = 0; at < raw.length; at += 8) {
    const row = [...raw.slice(at, at + 8)];
    const hex = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ").padEnd(23);
    lines.push(`${at.toString(16).padStart(4, "0")}  ${hex}  ${row.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : "·")).join("")}`);
  }
  return lines.join("\n") || "(no bytes)";
}

// ---- versions, runs

function versions() {
  const { shown: all, of } = values.history;
  const parent = (one) => (one.number ? `version ${one.number}` : `${one.manifest.slice(0, 16)} (of another place)`);
  return section("versions", "Versions", of > all.length ? el("p", { class: "note" }, `The newest ${full(all.length)} of ${full(of)}.`) : null,
    all.map((one) => el("div", { class: one.state === "offered" ? "version" : "version gone" },
      el("h3", {}, `Version ${one.number} `, one.number === values.dataset.version ? el("span", { class: "pill good" }, "this page") : "",
        one.newest ? el("span", { class: "pill" }, "newest") : "", one.state !== "offered" ? el("span", { class: "pill bad" }, one.state) : "",
        one.tags.map((tag) => el("span", { class: "pill second" }, shown(tag)))),
      one.documents === null ? null : el("div", {}, `${short(one.tokens)} tokens in ${plural(one.documents, "document")}`),
      el("div", { class: "soft" }, one.command === "build" ? "built" : one.command ? `${one.command} of ${one.parents.map(parent).join(" and ")}` : "",
        one.published_at ? `, ${one.published_at.replace("T", " ").replace("+00:00", " UTC")}` : ""),
      Object.entries(one.arguments).filter(([, value]) => value).map(([name, value]) => el("div", { class: "note" }, shown(`${name}: `), mono(value))),
      one.said ? el("div", { class: "fault" }, shown(one.said)) : null,
      one.manifest ? el("div", { class: "note" }, mono(one.manifest)) : null)));
}

function runs() {
  return section("runs", "Runs", values.runs.map((run) => {
    const { cost } = run;
    return el("div", { class: "card" }, el("h3", {}, shown(run.name), " ",
      el("span", { class: `pill ${{ complete: "good", stop: "bad", lost: "bad" }[run.state] || "second"}` }, run.state)),
      run.reason ? el("div", { class: "reason", dir: "auto" }, shown(run.reason)) : null,
      numbers([
        ["attempts", full(cost.attempts)], ["wall time", seconds(3600 * cost.wall_hours)],
        ["core-hours", cost.core_hours >= 0.1 || !cost.core_hours ? cost.core_hours.toFixed(2) : cost.core_hours.toPrecision(2),
          cost.core_hours ? `${Math.round(100 * cost.unit_hours / cost.core_hours)}% busy` : ""],
        run.total_bytes ? ["input done", `${Math.floor(100 * run.read_bytes / run.total_bytes)}%`, `of ${bytes(run.total_bytes)}`] : null,
        ["written", bytes(cost.shard_bytes)],
        ["tokens/s a core", short(Math.round(cost.tokens_per_core_second))],
        cost.money === null ? null : ["cost", shown(money(cost.money, run.currency))],
      ]),
      run.attempts.filter((attempt) => attempt.curve.length > 1).slice(-3).map(curve), el("br"),
      table(["started (UTC)", "state", "units", "failed", "tokens", "cores", "phases", "what happened"], run.attempts.map((one) => [
        one.started_at.replace("T", " ").replace("+00:00", ""), one.state + (one.exit_code ? ` (exit ${one.exit_code})` : ""),
        `${full(one.units_done)}/${full(one.units_total)}`, one.units_failed, one.tokens, one.cores,
        Object.entries(one.phase_seconds).map(([phase, count]) => `${phase} ${seconds(count)}`).join(", "),
        shown([...Object.entries(one.retries).map(([cause, count]) => `${cause} ${full(count)}`),
          ...(one.throttled_seconds >= 1 ? [`throttled ${seconds(one.throttled_seconds)}`] : [])].join(", ") || "nothing")])));
  }));
}

function curve(attempt) {
  const last = attempt.curve[attempt.curve.length - 1][0] || 1, total = Math.max(1, attempt.total_bytes);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = (tag, set) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(set)) made.setAttribute(name, value);
    svg.append(made);
  };
  svg.setAttribute("class", "curve");
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  for (const y of [0, 50, 100]) line("line", { x1: 0, x2: 100, y1: y, y2: y });
  line("polyline", { points: attempt.curve.map(([at, read]) => `${(100 * at / last).toFixed(2)},${(100 - 100 * Math.min(1, read / total)).toFixed(2)}`).join(" ") });
  return el("div", { class: "over-time" }, el("p", { class: "note" }, `Share of the input read, 0 to 100%, over ${seconds(last)} from ${attempt.started_at.replace("T", " ").replace("+00:00", " UTC")}`), svg);
}

function identity() {
  const data = values.dataset;
  return section("identity", "Identity", facts([
    ["dataset", mono(data.digest)], ["identity", mono(data.identity)], ["format", shown(data.format)],
    ["tokenizer", mono(data.tokenizer.url), ` ${full(data.tokenizer.vocab_size)} ids of ${data.token_bytes} bytes`], ["its sha256", mono(data.tokenizer.sha256)],
    ...data.written_by.map((one) => [plural(one.shards, "shard"), "written by ", shown(Object.entries(one.versions).map((pair) => pair.join(" ")).join(", "))]),
  ]));
}

// ---- all together

const heading = head();
const parts = values.dataset
  ? [values.live ? servedDocuments() : values.samples.length ? sampledDocuments() : null, mix(), lengths(), licences(), ledger(), versions()] : [];
if (values.runs.length) parts.push(runs());
if (values.dataset) parts.push(identity());
main.append(...heading, el("nav", { "aria-label": "sections" }, sections.map(([id, title]) => el("a", { href: `#${id}` }, title))),
  ...parts.filter(Boolean), el("footer", {}, `${values.software}. Every number is read from the store; nothing on this page is fetched from elsewhere.`));
