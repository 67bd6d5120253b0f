// The live view: a clip goes to the program behind it, and its sounds come back. It is the same on the page
// that `deconv1d explore` serves and in a notebook; how words get to the program is what differs.
"use strict";
/** Fills an element; post(address, body, signal) sends "start", "clip" or "sonify" and gives the answer, or throws. */
deconv1d.explore = (main, post) => {
  const {make, playerOf, leave} = deconv1d;
  const MOST_BYTES = 25 * 2 ** 20;
  let clip = null, asking = null, chosen = false, recorder = null;

  const file = make("input", {type: "file", accept: "audio/*,.flac,.ogg,.wav,.mp3", hidden: true});
  const record = make("button", {type: "button", onclick: toggleRecording}, "Record");
  const invitation = make("p", {}, "Drop a sound file here");
  const drop = make("div", {class: "drop"}, invitation,
    make("div", {class: "steps"}, make("button", {type: "button", onclick: () => file.click()}, "Choose a file"), record), file);
  const message = make("p", {class: "message", role: "status"});
  const progress = make("progress", {hidden: true, "aria-label": "Working"});
  const layer = make("select"), channel = make("select"), method = make("select");
  const contrast = make("input", {type: "checkbox", checked: true});
  const contrastLabel = make("label", {class: "check"}, contrast, "contrast with rivals");
  const tools = make("div", {class: "tools", hidden: true}, make("label", {}, "Layer", layer),
    make("label", {}, "Channel, the most active first", channel), make("label", {}, "Method", method), contrastLabel);
  const stage = make("div");
  main.append(drop, message, progress, tools, stage);

  function say(text, wrong = false) {
    message.textContent = text;
    message.classList.toggle("error", wrong);
  }

  /** Asks the server; shows progress with the time where it takes longer. */
  async function ask(address, body, signal) {
    const began = performance.now();
    const timer = setInterval(() => {
      const passed = (performance.now() - began) / 1000;
      if (passed < 0.5) return;
      progress.hidden = false;
      say(`Working for ${passed.toFixed(0)} s …`);
    }, 250);
    try {
      const facts = await post(address, body, signal);
      say("");
      return facts;
    } catch (error) {
      if (!signal?.aborted) say(error.message, true);
      return null;
    } finally {
      clearInterval(timer);
      progress.hidden = true;
    }
  }

  async function send(content, name) {
    if (content.size > MOST_BYTES) { say("The file is too large: 25 MiB at most.", true); return; }
    const facts = await ask("clip", content);
    if (facts) show(facts, name);
  }

  const fill = (menu, entries) => menu.replaceChildren(...entries.map(([value, text]) => make("option", {value}, text)));

  function show(facts, name) {
    const before = layer.value;
    clip = facts;
    invitation.textContent = `${name}, ${facts.seconds.toFixed(2)} s. Drop another sound file here`;
    fill(layer, facts.layers.map(({name}) => [name, name]));
    if (facts.layers.some(({name}) => name === before)) layer.value = before;
    fill(method, facts.methods.map((name) => [name, name]));
    tools.hidden = false;
    chooseLayer();
  }

  function chooseLayer() {
    const {activations} = clip.layers.find(({name}) => name === layer.value);
    const order = activations.map((value, number) => [number, value]).sort((a, b) => b[1] - a[1]);
    fill(channel, order.map(([number, value]) => [number, `${number} (${value})`]));
    hear();
  }

  /** Asks for what is chosen. Of several choices in a row only the last is waited for: to walk through a menu
   *  would else be to wait for every sound on the way. */
  async function hear() {
    contrastLabel.hidden = method.value !== "mask";
    chosen = true;
    if (asking) { asking.abort(); return; }
    let facts = null;
    while (chosen) {
      chosen = false;
      asking = new AbortController();
      facts = await ask("sonify", JSON.stringify({
        clip: clip.clip, layer: layer.value, channel: Number(channel.value), method: method.value, contrast: contrast.checked,
      }), asking.signal);
    }
    asking = null;
    if (!facts) return;
    leave();
    stage.replaceChildren(playerOf({...facts, sounds: facts.sounds}));
    stage.querySelector(".player").dispatchEvent(new Event("pointerdown"));
    if (facts.silent) say("This sound is silent: the channel’s map is dead on this recording.");
  }

  layer.addEventListener("change", chooseLayer);
  for (const menu of [channel, method, contrast]) menu.addEventListener("change", hear);
  file.addEventListener("change", () => { if (file.files[0]) send(file.files[0], file.files[0].name); file.value = ""; });
  for (const name of ["dragover", "dragleave", "drop"]) drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) send(event.dataTransfer.files[0], event.dataTransfer.files[0].name);
  });

  async function toggleRecording() {
    if (recorder) { recorder.stop(); return; }
    let stream;
    try { stream = await navigator.mediaDevices.getUserMedia({audio: true}); } catch (error) {
      say(`There is no microphone to record from (${error.name}).`, true);
      return;
    }
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
    recorder.addEventListener("stop", async () => {
      recorder = null;
      record.textContent = "Record";
      for (const track of stream.getTracks()) track.stop();
      try { send(await wavOf(new Blob(parts)), "Your recording"); } catch { say("The recording cannot be read.", true); }
    });
    recorder.start();
    record.textContent = "Stop";
  }

  /** A browser records in formats of its own; what is sent is 16-bit WAV, one channel. */
  async function wavOf(blob) {
    const sound = await new AudioContext().decodeAudioData(await blob.arrayBuffer());
    const samples = sound.getChannelData(0), view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
    const text = (place, word) => [...word].forEach((letter, n) => view.setUint8(place + n, letter.charCodeAt(0)));
    text(0, "RIFF"); view.setUint32(4, 36 + 2 * samples.length, true); text(8, "WAVEfmt ");
    view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
    view.setUint32(24, sound.sampleRate, true); view.setUint32(28, 2 * sound.sampleRate, true);
    view.setUint16(32, 2, true); view.setUint16(34, 16, true); text(36, "data"); view.setUint32(40, 2 * samples.length, true);
    samples.forEach((value, n) => view.setInt16(44 + 2 * n, 32767 * Math.max(-1, Math.min(1, value)), true));
    return new Blob([view], {type: "audio/wav"});
  }

  ask("start", "").then((facts) => { if (facts?.clip) show(facts, facts.name); });
};

deconv1d.parts.push(() => {
  const main = document.getElementById("explore");
  if (!main) return;
  const token = new URLSearchParams(location.search).get("token") ?? "";
  deconv1d.explore(main, async (address, body, signal) => {
    let response, facts;
    try {
      response = await fetch(address, {method: "POST", headers: {"X-Token": token}, body, signal});
      facts = await response.json();
    } catch { throw new Error("The program that serves this page has ended. Start it again."); }
    if (!response.ok) throw new Error(facts.message ?? response.statusText);
    return facts;
  });
});
