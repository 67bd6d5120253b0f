// The report of a mined data set: layers down, channels across, and a page for each channel.
"use strict";
deconv1d.parts.push(() => {
  const {make, playerOf, leave, typing} = deconv1d;
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const overview = document.getElementById("overview"), page = document.getElementById("channel");
  const COLOURS = {activation: "value", trust: "trust", "class purity": "purity"};
  const number = (value, digits = 3) => (value === null || value === undefined ? "-" : Number(value.toPrecision(digits)).toString());

  // --- what the reader keeps: favourites, notes, answers of the blind test --------------------------

  const KEY = `deconv1d ${data.key}`;
  let memory = {kept: {}, blind: {}};
  try { memory = Object.assign(memory, JSON.parse(localStorage.getItem(KEY) ?? "{}")); } catch { /* no storage: kept until the page is closed */ }
  const save = () => { try { localStorage.setItem(KEY, JSON.stringify(memory)); } catch { /* as above */ } };
  const id = (place) => JSON.stringify([data.models[place.model].name, data.models[place.model].layers[place.layer].name, place.channel]);
  const layerOf = (place) => data.models[place.model].layers[place.layer];
  const cellOf = (place) => layerOf(place).cells.find((cell) => cell.channel === place.channel);
  const title = (place) => `${layerOf(place).name}, channel ${place.channel}`;

  function exportKept() {
    const kept = Object.entries(memory.kept).map(([key, note]) => {
      const [model, layer, channel] = JSON.parse(key);
      return {model, layer, channel, note};
    });
    const blob = new Blob([JSON.stringify({favourites: kept}, null, 1)], {type: "application/json"});
    const link = make("a", {href: URL.createObjectURL(blob), download: "favourites.json"});
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // --- overview ------------------------------------------------------------------------------------

  const tools = {
    search: make("input", {type: "search", placeholder: "layer, channel, clip, class or note"}),
    colour: make("select", {}, ...Object.keys(COLOURS).map((name) => make("option", {value: name}, name))),
    sort: make("select", {}, ...["channel", ...Object.keys(COLOURS)].map((name) => make("option", {value: name}, name))),
    least: make("input", {type: "range", min: 0, max: 100, value: 0}),
    kept: make("input", {type: "checkbox"}),
  };
  const count = make("p", {class: "quiet", role: "status"});
  const buttons = [];  // of all cells: {button, place, cell, shares, text}

  function buildOverview() {
    overview.before(make("div", {class: "tools", id: "tools"},
      make("label", {}, "Search", tools.search),
      make("label", {}, "Colour", tools.colour),
      make("label", {}, "Sort by", tools.sort),
      make("label", {}, "Hide what is below", tools.least),
      make("label", {class: "check"}, tools.kept, "favourites only"),
      make("button", {type: "button", onclick: exportKept}, "Export favourites")));
    overview.append(count, make("p", {class: "legend"}, "low", make("i"), "high", make("span", {}, "(activation: within each layer; striped: not known)")));
    overview.append(make("div", {class: "models"}, ...data.models.map(modelOf)));
    for (const tool of Object.values(tools)) tool.addEventListener("input", () => refresh(tool === tools.sort));
    for (const [name, field] of Object.entries(COLOURS)) {
      const known = data.models.some((model) => model.layers.some((layer) => layer.cells.some((cell) => cell[field] !== null)));
      for (const menu of [tools.colour, tools.sort]) [...menu.options].find((option) => option.value === name).disabled = !known;
    }
    refresh(false);
  }

  function modelOf(model, modelNumber) {
    return make("section", {"aria-label": model.name}, data.models.length > 1 ? make("h2", {}, model.name) : null,
      ...model.layers.map((layer, layerNumber) => rowOf(layer, modelNumber, layerNumber)));
  }

  const BLANK = make("button", {type: "button", tabindex: "-1"});

  function rowOf(layer, model, layerNumber) {
    const cells = make("div", {class: "cells", role: "group", "aria-label": `Channels of ${layer.name}`});
    const highest = layer.cells.reduce((most, cell) => Math.max(most, cell.value), 1e-30);
    const row = layer.cells.map((cell) => {
      const button = BLANK.cloneNode();
      button.entry = {
        button, cell, place: {model, layer: layerNumber, channel: cell.channel}, text: null,
        shares: {value: Math.max(0, cell.value / highest), trust: cell.trust, purity: cell.purity},
      };
      buttons.push(button.entry);
      return button;
    });
    if (row.length) row[0].tabIndex = 0;
    cells.append(...row);
    cells.addEventListener("click", (event) => { if (event.target.entry) open(event.target.entry.place); });
    cells.addEventListener("pointerover", (event) => { if (event.target.entry) event.target.title = event.target.ariaLabel; });
    cells.addEventListener("keydown", (event) => walk(event, cells));
    const facts = [`${layer.channels} channels`, layer.hop && `hop ${layer.hop}`, layer.field && `reads ${layer.field}`];
    return make("div", {class: "row"}, make("header", {}, make("h3", {}, layer.name), make("span", {}, facts.filter(Boolean).join(" · "))), cells);
  }

  /** What a search looks through; made at the first search. */
  function textOf(entry) {
    const {cell, place} = entry, layer = layerOf(place).name;
    entry.text ??= [`${layer}/${cell.channel} ${layer} channel ${cell.channel}`, ...cell.top.map((top) => `${top.clip} ${top.class ?? ""}`)].join(" ").toLowerCase();
    return entry.text;
  }

  /** Arrow keys: left and right in a layer, up and down between layers. */
  function walk(event, cells) {
    const shown = (group) => [...group.children].filter((button) => !button.hidden);
    const here = shown(cells), position = here.indexOf(event.target);
    let next = {ArrowRight: here[position + 1], ArrowLeft: here[position - 1], Home: here[0], End: here.at(-1)}[event.key];
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const groups = [...cells.closest("section").querySelectorAll(".cells")].filter((group) => shown(group).length);
      const other = groups[groups.indexOf(cells) + (event.key === "ArrowDown" ? 1 : -1)];
      if (other) next = shown(other)[Math.min(position, shown(other).length - 1)];
    }
    if (!next) return;
    next.focus();
    event.preventDefault();
  }

  const shareOf = (entry, name) => entry.shares[COLOURS[name]];

  function refresh(sorting) {
    const words = tools.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const colour = tools.colour.value, least = tools.least.value / 100;
    const anyKept = Object.keys(memory.kept).length > 0;
    let shown = 0;
    for (const entry of buttons) {
      const share = shareOf(entry, colour), note = anyKept ? memory.kept[id(entry.place)] : undefined;
      const text = words.length ? `${textOf(entry)} ${(note ?? "").toLowerCase()}` : "";
      const visible = words.every((word) => text.includes(word)) && (least === 0 || (share ?? -1) >= least) && (!tools.kept.checked || note !== undefined);
      entry.button.hidden = !visible;
      shown += visible;
      paint(entry, share, note);
    }
    if (sorting) sort();
    for (const group of overview.querySelectorAll(".cells")) {
      group.parentElement.hidden = ![...group.children].some((button) => !button.hidden);
    }
    count.textContent = `${shown} of ${buttons.length} channels. Choose one with a click, or with the arrow keys and Enter.`;
  }

  function paint(entry, share, note) {
    const {button, place, cell} = entry, state = `${share} ${note === undefined}`;
    if (entry.state === state) return;
    entry.state = state;
    button.className = `${share === null ? "none" : ""} ${note === undefined ? "" : "kept"}`;
    button.style.setProperty("--share", `${Math.round(100 * (share ?? 0))}%`);
    let label = title(place);
    for (const name in COLOURS) if (cell[COLOURS[name]] !== null) label += `, ${name} ${number(cell[COLOURS[name]])}`;
    button.ariaLabel = note === undefined ? label : `${label}, favourite`;
  }

  function sort() {
    const by = tools.sort.value;
    const key = (button) => (by === "channel" ? button.entry.place.channel : -(shareOf(button.entry, by) ?? -Infinity));
    for (const group of overview.querySelectorAll(".cells")) {
      group.append(...[...group.children].sort((a, b) => key(a) - key(b) || a.entry.place.channel - b.entry.place.channel));
    }
  }

  // --- the channel's page --------------------------------------------------------------------------
  // The address says what is shown, so that Back works: "#0/conv3/5,1/conv3/9".

  const address = (places) => `#${places.map((p) => `${p.model}/${encodeURIComponent(layerOf(p).name)}/${p.channel}`).join(",")}`;
  let places = [], active = 0;

  function open(place) {
    const others = data.models.map((model, number) => {
      if (number === place.model) return place;
      // Names differ where one network is inside another module: "features.conv3", "net.features.conv3".
      const same = ({name}) => name === layerOf(place).name || `.${name}`.endsWith(`.${layerOf(place).name}`) || `.${layerOf(place).name}`.endsWith(`.${name}`);
      const layer = model.layers.findIndex(same);
      const cells = model.layers[layer]?.cells ?? [];
      const cell = cells.find((other) => other.channel === place.channel) ?? cells[0];
      return cell ? {model: number, layer, channel: cell.channel} : null;
    });
    active = place.model;
    location.hash = address(others.filter(Boolean));
  }

  function fromAddress() {
    return location.hash.slice(1).split(",").map((part) => {
      const [model, name, channel] = part.split("/");
      let layerName;
      try { layerName = decodeURIComponent(name ?? ""); } catch { return null; }
      const layer = data.models[model]?.layers.findIndex((other) => other.name === layerName) ?? -1;
      const place = {model: Number(model), layer, channel: Number(channel)};
      return layer >= 0 && cellOf(place) ? place : null;
    }).filter(Boolean);
  }

  function show() {
    leave();
    places = fromAddress();
    const chosen = places.length > 0;
    page.replaceChildren();
    page.hidden = !chosen;
    for (const part of [overview, document.getElementById("tools"), document.querySelector(".introduction")]) part.hidden = chosen;
    if (!chosen) { refresh(true); return; }
    const back = make("button", {type: "button", onclick: () => { location.hash = ""; }}, "All channels (Esc)");
    page.append(back, make("div", {class: "models"}, ...places.map(paneOf)));
    page.querySelector("h2").focus({preventScroll: true});
    scrollTo({top: 0, behavior: "instant"});
    page.querySelector(".player")?.dispatchEvent(new Event("pointerdown"));
  }

  function paneOf(place) {
    const layer = layerOf(place), cell = cellOf(place), key = id(place);
    const heading = make("h2", {tabindex: "-1"}, title(place));
    const steps = make("div", {class: "steps"}, ...[
      ["← channel", -1, 0], ["channel →", 1, 0], ["↑ layer", 0, -1], ["layer ↓", 0, 1],
    ].map(([text, across, down]) => make("button", {type: "button", onclick: () => step(place, across, down)}, text)));
    const pane = make("section", {class: "channel", "aria-label": `${data.models[place.model].name}: ${title(place)}`},
      data.models.length > 1 ? make("p", {class: "quiet"}, data.models[place.model].name) : null,
      heading, steps, make("p", {class: "sentence"}, cell.sentence), keeping(key),
      ...cell.top.map((top, rank) => topOf(place, top, rank)), curveOf(layer, place.channel), blindOf(place));
    pane.addEventListener("pointerdown", () => { active = place.model; });
    pane.addEventListener("focusin", () => { active = place.model; });
    return pane;
  }

  /** The channel's own sound of an input: the sonification, or the mask where winners were masked. */
  const soundOf = (top) => ["sonification", "mask"].map((wanted) => top.sounds.find(([name]) => name === wanted)).find(Boolean);

  function soundsOf(top) {
    return top.sounds.map(([name, level, stem]) => ({name, level, file: `${stem}.wav`, picture: `${stem}.png`}));
  }

  function playerOfTop(top, label) {
    const sounds = soundsOf(top);
    const first = Math.max(0, top.sounds.indexOf(soundOf(top)));
    return playerOf({label, seconds: top.seconds, start: top.start, end: top.end, first, sounds, speed: top.speed});
  }

  function topOf(place, top, rank) {
    const facts = [["clip", top.clip], ["class", top.class], ["activation", number(top.value)], ["coherence", number(top.coherence)], ...Object.entries(top.facts)];
    return make("article", {class: "top"}, make("h3", {}, `Input ${rank + 1} `, make("span", {class: "quiet"}, top.clip)),
      top.sounds.length ? playerOfTop(top, `${title(place)}, input ${rank + 1}`) : make("p", {class: "quiet"}, top.problem ?? "There is no sound of it."),
      top.sentence ? make("p", {class: "sentence"}, top.sentence) : null,
      make("details", {}, make("summary", {}, "Facts"), make("dl", {}, ...facts.filter(([, value]) => value !== null && value !== undefined && value !== "-")
        .flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]))));
  }

  function step(place, across, down) {
    const layer = place.layer + down, cells = data.models[place.model].layers[layer]?.cells;
    if (!cells) return;
    const position = cells.findIndex((cell) => cell.channel === place.channel);
    const cell = down ? cells[Math.max(0, Math.min(position, cells.length - 1))] : cells[position + across];
    if (!cell) return;
    const next = {model: place.model, layer, channel: cell.channel};
    // Only this model's pane moves: channel 5 of one network has nothing to do with that of another.
    location.hash = address(places.map((other) => (other.model === place.model ? next : other)));
  }

  function keeping(key) {
    const note = make("textarea", {class: "note", "aria-label": "Note", placeholder: "A note, kept in this browser"});
    const star = make("button", {type: "button"});
    const paintStar = () => {
      const kept = memory.kept[key] !== undefined;
      star.textContent = kept ? "★ favourite" : "☆ make it a favourite";
      star.setAttribute("aria-pressed", String(kept));
      note.hidden = !kept;
      note.value = memory.kept[key] ?? "";
    };
    star.addEventListener("click", () => {
      if (memory.kept[key] === undefined) memory.kept[key] = ""; else delete memory.kept[key];
      save();
      paintStar();
    });
    note.addEventListener("input", () => { memory.kept[key] = note.value; save(); });
    paintStar();
    return make("div", {}, star, note);
  }

  // --- tuning curve --------------------------------------------------------------------------------

  function draw(tag, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  /** One curve of points on frequencies as an SVG polyline; a log axis of frequency. */
  function lineOf(hertz, values, highest, attributes) {
    const span = Math.log(hertz.at(-1) / hertz[0]) || 1;
    const points = hertz.map((f, n) => `${(40 + 500 * Math.log(f / hertz[0]) / span).toFixed(1)},${(150 - 140 * Math.max(0, values[n]) / highest).toFixed(1)}`);
    return draw("polyline", {points: points.join(" "), ...attributes});
  }

  function curveOf(layer, channel) {
    const tuning = layer.tuning, found = tuning?.channels[channel];
    if (!found) return null;
    const highest = Math.max(...found.curves.flat(), 1e-30);
    const svg = draw("svg", {viewBox: "0 0 560 185", class: "curve", role: "img", "aria-label": `Tuning curve: ${found.sentence}`},
      draw("path", {d: "M40 10V150H540"}));
    tuning.levels.forEach((level, n) => svg.append(lineOf(tuning.hertz, found.curves[n], highest, {opacity: ((n + 1) / tuning.levels.length).toFixed(2)})));
    if (found.exact) svg.append(lineOf(tuning.hertz, found.exact, Math.max(...found.exact, 1e-30), {class: "exact"}));
    for (const f of [50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000].filter((f) => f >= tuning.hertz[0] && f <= tuning.hertz.at(-1))) {
      const x = 40 + 500 * Math.log(f / tuning.hertz[0]) / Math.log(tuning.hertz.at(-1) / tuning.hertz[0]);
      svg.append(draw("text", {x, y: 166, "text-anchor": "middle"}, f >= 1000 ? `${f / 1000}k` : String(f)));
    }
    svg.append(draw("text", {x: 290, y: 182, "text-anchor": "middle"}, "hertz"), draw("text", {x: 36, y: 18, "text-anchor": "end"}, number(highest, 2)));
    const levels = `Mean activation above silence on ${tuning.stimuli}, one line for each level (${tuning.levels.map((level) => number(level)).join(", ")} dB; the loudest is the darkest)${found.exact ? "; dotted: the exact magnitude response, at its own scale" : ""}.`;
    return make("article", {class: "top"}, make("h3", {}, "Tuning curve"), svg, make("p", {class: "sentence"}, found.sentence), make("p", {class: "quiet"}, levels));
  }

  // --- blind test ----------------------------------------------------------------------------------

  /** Wilson's 95 % interval of a share. */
  function interval(right, asked) {
    const z = 1.96, p = right / asked, under = 1 + z * z / asked;
    const centre = (p + z * z / (2 * asked)) / under;
    const half = z * Math.sqrt(p * (1 - p) / asked + z * z / (4 * asked * asked)) / under;
    return [Math.max(0, centre - half), Math.min(1, centre + half)];
  }

  function blindOf(place) {
    const own = cellOf(place).top.filter((top) => soundOf(top));
    const others = layerOf(place).cells.filter((cell) => cell.channel !== place.channel && cell.top.some((top) => soundOf(top)));
    if (!own.length || !others.length) return null;
    const key = id(place), box = make("div", {class: "blind"}), any = (list) => list[Math.floor(Math.random() * list.length)];
    const result = make("p", {role: "status"});
    const tell = (word) => {
      const {right, asked} = memory.blind[key] ?? {right: 0, asked: 0};
      const [low, high] = asked ? interval(right, asked) : [0, 1];
      result.textContent = asked ? `${word}${right} of ${asked} right (95 % interval ${low.toFixed(2)} to ${high.toFixed(2)}; guessing gives 0.5).` : "";
    };
    function ask(word) {
      leave();
      const pair = [any(own), any(any(others).top.filter((top) => soundOf(top)))];
      const correct = Math.random() < 0.5 ? 0 : 1;
      const shown = correct ? [pair[1], pair[0]] : pair;
      // One loudness for both: the louder channel must not be told by its level.
      const sounds = shown.map((top, n) => {
        const [, , stem, rms] = soundOf(top);
        return {name: n ? "second sound" : "first sound", file: `${stem}.wav`, rms};
      });
      const quietest = Math.min(...sounds.map((sound) => sound.rms || Infinity));
      for (const sound of sounds) sound.level = sound.rms && Number.isFinite(quietest) ? Math.max(0.05, quietest / sound.rms) : 1;
      const answer = (chosen) => {
        const before = memory.blind[key] ?? {right: 0, asked: 0};
        memory.blind[key] = {right: before.right + (chosen === correct ? 1 : 0), asked: before.asked + 1};
        save();
        ask(chosen === correct ? "Right. " : `No, it was the ${correct ? "second" : "first"}. `);
      };
      box.replaceChildren(make("h3", {}, "Blind test"),
        make("p", {}, "Which of two sounds is this channel’s? The other one is of another channel of this layer."),
        playerOf({label: "Blind test", sounds, speed: Math.max(...shown.map((top) => top.speed ?? 1)), seconds: Math.max(...shown.map((top) => top.seconds ?? 0))}),
        make("div", {class: "answers"}, make("button", {type: "button", onclick: () => answer(0)}, "It is the first"), make("button", {type: "button", onclick: () => answer(1)}, "It is the second")),
        result);
      tell(word);
      if (word) box.querySelector(".player").dispatchEvent(new Event("pointerdown"));
    }
    const begin = make("button", {type: "button", onclick: () => ask("")}, "Blind test: which of two sounds is this channel’s?");
    box.append(begin);
    return box;
  }

  // --- keys ----------------------------------------------------------------------------------------

  document.addEventListener("keydown", (event) => {
    if (page.hidden || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    const move = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    const place = places.find((other) => other.model === active) ?? places[0];
    if (event.key === "Escape") location.hash = "";
    else if (move && (event.key === "ArrowLeft" || event.key === "ArrowRight" || event.shiftKey)) { step(place, ...move); event.preventDefault(); }
  });

  buildOverview();
  addEventListener("hashchange", show);
  show();
  document.documentElement.dataset.readyMilliseconds = String(Math.round(performance.now()));
});
