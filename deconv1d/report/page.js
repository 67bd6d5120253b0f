// The one script of all pages: the player, the demo's recordings, the report of a mined data set.
// No framework. Text from data goes into the page as text alone (textContent), never as HTML.
"use strict";
(() => {
  /** Makes an element: make("button", {class: "x", onclick: f}, "text", child). */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  const seconds = (value) => (Number.isFinite(value) ? value.toFixed(2) : "-");
  const typing = (target) => target instanceof Element && target.matches("input, textarea, select, [contenteditable]");

  // --- the player --------------------------------------------------------------------------------
  // A page says what there is to hear in plain HTML: a `.player` with a `.sound` for each sound, an audio
  // element in it and a picture. Here it becomes one player that switches in place.

  let playing = null;   // the player that is heard: one at a time
  let current = null;   // the player that the keys belong to

  class Player {
    constructor(root) {
      this.root = root;
      this.sounds = [...root.querySelectorAll(".sound")].map((figure) => ({
        figure, audio: figure.querySelector("audio"), image: figure.querySelector("img"),
        name: figure.querySelector("figcaption").textContent, level: Number(figure.dataset.level ?? 1),
      }));
      this.chosen = Math.min(Number(root.dataset.first ?? 0), this.sounds.length - 1);
      this.start = Number(root.dataset.start ?? NaN);
      this.end = Number(root.dataset.end ?? NaN);
      this.length = Number(root.dataset.seconds ?? NaN);
      this.speed = Number(root.dataset.speed ?? 1);  // how many times faster than it was it is played
      this.looping = false;
      this.matched = true;
      this.wanted = null;  // a position to go to when the sound is there
      this.build();
      for (const sound of this.sounds) this.listen(sound.audio);
      this.show();
    }

    get audio() { return this.sounds[this.chosen].audio; }
    get duration() { return Number.isFinite(this.audio.duration) ? this.audio.duration : this.length; }
    get position() { return this.wanted ?? this.audio.currentTime; }

    build() {
      const name = this.root.getAttribute("aria-label") ?? "sound";
      this.play = make("button", {class: "play", type: "button", onclick: () => this.toggle()}, "Play");
      this.buttons = this.sounds.map((sound, number) => make("button", {
        type: "button", role: "radio", onclick: () => this.choose(number),
      }, number < 9 ? make("kbd", {"aria-hidden": "true"}, String(number + 1)) : null, sound.name));
      this.clock = make("span", {class: "clock"});
      const group = make("div", {class: "bar", role: "radiogroup", "aria-label": `What is heard: ${name}`}, ...this.buttons);
      const bar = make("div", {class: "bar"}, this.play, this.clock);
      if (this.start < this.end) bar.append(this.loop = make("button", {
        type: "button", "aria-pressed": "false", onclick: () => this.setLoop(!this.looping),
      }, "Loop the strongest moment"));
      if (this.sounds.some((sound) => sound.level !== 1)) bar.append(this.match = make("button", {
        type: "button", "aria-pressed": "true", title: "Off: each sound at the recording's peak, as the paper has it",
        onclick: () => this.setMatched(!this.matched),
      }, "Same loudness"), this.loudness = make("span", {class: "loudness", role: "status"}));
      this.cursor = make("div", {class: "cursor"});
      this.view = make("div", {
        class: "view", role: "slider", tabindex: "0", "aria-label": `Position in seconds: ${name}`, "aria-valuemin": "0",
        onclick: (event) => this.seekTo(event), onkeydown: (event) => this.slide(event),
      }, ...this.sounds.map((sound) => sound.figure), this.cursor);
      this.view.classList.toggle("empty", !this.sounds.some((sound) => sound.image));
      if (this.start < this.end && this.length) {
        const place = (value) => `${100 * Math.min(1, Math.max(0, value / this.length))}%`;
        this.view.append(make("div", {class: "moment", style: `left:${place(this.start)};right:calc(100% - ${place(this.end)})`}));
      }
      if (this.sounds.length > 1) this.root.append(group);
      this.root.append(bar, this.view);
      this.root.classList.add("ready");
      this.root.addEventListener("pointerdown", () => { current = this; });
      this.root.addEventListener("focusin", () => { current = this; });
      current ??= this;
    }

    listen(audio) {
      audio.controls = false;
      audio.addEventListener("ended", () => { if (this.looping) this.from(this.start); else this.show(); });
      audio.addEventListener("loadedmetadata", () => { if (audio === this.audio) this.arrive(); this.show(); });
      audio.addEventListener("error", () => { this.clock.textContent = "cannot be played"; });
      for (const event of ["play", "pause", "seeked"]) audio.addEventListener(event, () => this.show());
    }

    /** Goes to the position that was wanted before the sound was loaded. */
    arrive() {
      if (this.wanted === null || this.audio.readyState < 1) return;
      this.audio.currentTime = this.wanted;
      this.wanted = null;
    }

    go(position) {
      this.wanted = Math.max(0, Math.min(position, Number.isFinite(this.duration) ? this.duration : position));
      this.load();
      this.arrive();
      this.show();
    }

    /** Loads all sounds of this player, so that a switch is heard at once. */
    load() {
      for (const {audio} of this.sounds) if (audio.preload === "none") audio.preload = "auto";
    }

    from(position) { this.go(position); this.begin(); }

    begin() {
      if (playing && playing !== this) playing.audio.pause();
      playing = current = this;
      this.load();
      this.audio.volume = this.matched ? this.sounds[this.chosen].level : 1;
      const started = this.audio.play();
      if (started) started.catch(() => this.show());
      requestAnimationFrame(() => this.follow());
    }

    toggle() {
      if (!this.audio.paused) { this.audio.pause(); return; }
      if (this.looping) this.go(this.start);
      this.begin();
    }

    /** Switches to another sound at the same position; plays on if it was playing. */
    choose(number) {
      if (number < 0 || number >= this.sounds.length) return;
      const position = this.position, heard = !this.audio.paused;
      this.audio.pause();
      this.chosen = number;
      this.go(position);
      if (heard) this.begin();
      current = this;
    }

    setLoop(on) {
      this.looping = on;
      this.loop.setAttribute("aria-pressed", String(on));
      if (on) this.from(this.start);
    }

    setMatched(on) {
      this.matched = on;
      this.match.setAttribute("aria-pressed", String(on));
      this.loudness.textContent = on ? "" : "each at the recording’s peak, as in the paper";
      this.audio.volume = on ? this.sounds[this.chosen].level : 1;
    }

    seekTo(event) {
      const box = this.view.getBoundingClientRect();
      if (this.duration > 0) this.go(((event.clientX - box.left) / box.width) * this.duration);
    }

    slide(event) {
      const step = {ArrowLeft: -0.1, ArrowRight: 0.1, Home: -Infinity, End: Infinity}[event.key];
      if (step !== undefined) { this.go(this.position + step); event.preventDefault(); event.stopPropagation(); }
    }

    /** Moves the cursor with the sound, and loops. */
    follow() {
      if (this.looping && this.audio.currentTime >= this.end) this.audio.currentTime = this.start;
      this.show();
      if (!this.audio.paused) requestAnimationFrame(() => this.follow());
    }

    show() {
      this.sounds.forEach((sound, number) => { sound.figure.hidden = number !== this.chosen; });
      this.buttons.forEach((button, number) => {
        button.setAttribute("aria-checked", String(number === this.chosen));
        button.tabIndex = number === this.chosen ? 0 : -1;
      });
      this.play.textContent = this.audio.paused ? "Play" : "Pause";
      const share = this.duration > 0 ? this.position / this.duration : 0;
      this.cursor.style.left = `${100 * Math.min(1, share)}%`;
      // The clock is the recording's own: of a signal that is played faster it runs faster.
      const [here, all] = [this.position, this.duration].map((value) => seconds(value * this.speed));
      this.clock.textContent = `${here} / ${all} s`;
      this.view.setAttribute("aria-valuemax", seconds(this.duration));
      this.view.setAttribute("aria-valuenow", seconds(this.position));
    }
  }

  /** Makes the HTML of a player from data: {label, seconds, start, end, first, sounds: [{name, file, picture, level}]}. */
  function playerOf(data) {
    const speed = data.speed ?? data.sounds[0]?.speed ?? 1;
    const root = make("div", {
      class: "player", "aria-label": data.label, "data-seconds": data.seconds, "data-start": data.start,
      "data-end": data.end, "data-first": data.first, "data-speed": speed,
    }, ...data.sounds.map((sound) => make("figure", {class: "sound", "data-level": sound.level},
      make("figcaption", {}, sound.name),
      make("audio", {controls: true, preload: "none", src: sound.file, "aria-label": `${data.label}: ${sound.name}`}),
      sound.picture ? make("img", {src: sound.picture, alt: `Spectrogram and waveform: ${data.label}, ${sound.name}`, draggable: "false"}) : null)),
    speed > 1 ? make("p", {class: "faster"}, `Played ${speed} x faster than it was recorded, so that it can be heard.`) : null);
    root.player = new Player(root);
    return root;
  }

  /** Stops what is heard and forgets a part of the page that goes away. */
  function leave() {
    if (playing) playing.audio.pause();
    playing = current = null;
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    if (!current || !current.root.isConnected) return;
    if (/^[1-9]$/.test(event.key)) { current.choose(Number(event.key) - 1); event.preventDefault(); }
    else if (event.key === " " && !(event.target instanceof Element && event.target.closest("button, summary, a"))) {
      current.toggle();
      event.preventDefault();
    }
  });

  // --- pages of one recording at a time (the demo) -----------------------------------------------

  function showOneRecording(main) {
    const sections = [...main.querySelectorAll(".recording")];
    if (!sections.length) return;
    const links = [...document.querySelectorAll("nav a")];
    const show = () => {
      const wanted = sections.find((section) => `#${section.id}` === location.hash) ?? sections[0];
      leave();
      for (const section of sections) section.hidden = section !== wanted;
      for (const link of links) {
        if (link.hash === `#${wanted.id}`) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
      current = wanted.querySelector(".layer:not([hidden]) .player")?.player ?? null;
    };
    addEventListener("hashchange", show);
    for (const section of sections) showOneLayer(section);
    show();
  }

  function showOneLayer(section) {
    const layers = [...section.querySelectorAll(".layer")];
    const show = (number) => {
      leave();
      layers.forEach((layer, place) => { layer.hidden = place !== number; });
      tabs.forEach((tab, place) => tab.setAttribute("aria-pressed", String(place === number)));
      current = layers[number].querySelector(".player")?.player ?? null;
    };
    const tabs = layers.map((layer, number) =>
      make("button", {type: "button", onclick: () => show(number)}, layer.querySelector("h3").textContent));
    section.querySelector("header").after(make("div", {class: "tabs", role: "group", "aria-label": "Layers"}, ...tabs));
    show(0);
  }

  function start() {
    for (const root of document.querySelectorAll(".player")) root.player = new Player(root);
    current = null;
    current = document.querySelector(".player")?.player ?? null;
    const main = document.querySelector("main[data-one-at-a-time]");
    if (main) showOneRecording(main);
    for (const part of parts) part();
  }

  const parts = [];
  window.deconv1d = {make, playerOf, leave, typing, seconds, Player, parts, get current() { return current; }};
  addEventListener("DOMContentLoaded", start);
})();
