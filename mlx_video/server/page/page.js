// The page: a form, the video that is being made, the queue and the finished videos. No other files, no other hosts.
"use strict";

const byId = (id) => document.getElementById(id);
const form = byId("compose");
const fields = () => [...form.elements].filter((field) => field.name && field.type !== "file");
let models = [];
let image = null; // what was dropped or chosen
let current = null; // the video that is being made, as the last list had it
let live = { progress: null, preview: null };

// ---- building blocks

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

async function ask(path, options = {}) {
  const answer = await fetch(path, options);
  const data = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(data.error?.message ?? `The server answered ${answer.status}.`);
  return data;
}

const post = (path, data = {}) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(data) });

function say(text) {
  byId("spoken").textContent = text;
}

function showError(error) {
  const shown = byId("form-error");
  shown.hidden = !error;
  shown.textContent = error ? error.message : "";
}

async function attempt(work) {
  try {
    showError(null);
    return await work();
  } catch (error) {
    showError(error);
    return null;
  }
}

function inWords(seconds) {
  const all = Math.max(0, Math.round(seconds));
  const [hours, minutes, rest] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, all % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

// ---- the form

function formData() {
  const data = new FormData();
  for (const field of fields()) if (field.value.trim() !== "") data.append(field.name, field.value.trim());
  if (image) data.append("image", image, "image");
  return data;
}

const chosenModel = () => models.find((model) => model.name === form.elements.model.value);

function showModel() {
  const model = chosenModel();
  if (!model) return;
  const placeholders = { width: model.width, height: model.height, num_frames: model.num_frames, steps: model.steps };
  for (const [name, value] of Object.entries(placeholders)) form.elements[name].placeholder = value;
  const length = (model.num_frames / model.fps).toFixed(1);
  byId("defaults").textContent =
    `${model.width}×${model.height}, ${model.num_frames} frames (${length} s), ${model.steps} steps.`;
  byId("image-field").hidden = !model.takes.includes("image");
  form.elements.prompt.placeholder = model.example || "What the video should show";
  byId("drop-text").textContent =
    (model.needs.includes("image") ? "First frame (needed)" : "First frame") + ": drop an image here, or choose one";
}

function setImage(file) {
  image = file;
  const shown = byId("image-shown");
  if (shown.src) URL.revokeObjectURL(shown.src);
  shown.hidden = byId("image-remove").hidden = !file;
  byId("drop-text").hidden = Boolean(file);
  if (file) shown.src = URL.createObjectURL(file);
  else {
    shown.removeAttribute("src");
    form.elements.image.value = "";
  }
}

function fillForm(video) {
  for (const field of fields()) field.value = field.name === "model" ? field.value : "";
  if (models.some((model) => model.name === video.model)) form.elements.model.value = video.model;
  for (const [name, value] of Object.entries(video.settings)) {
    if (form.elements[name]) form.elements[name].value = Array.isArray(value) ? value.join(",") : value;
  }
  showModel();
  form.elements.prompt.focus();
  say("The settings are in the form.");
}

function showPlan(plan) {
  const rows = plan.stages.map((stage) =>
    element("tr", {}, element("th", { scope: "row" }, stage.stage),
      element("td", { class: "number" }, `${stage.gb.toFixed(2)} GB`), element("td", {}, stage.holds)));
  const head = element("thead", {}, element("tr", {},
    ...["Stage", "Peak", "In memory"].map((title) => element("th", { scope: "col" }, title))));
  const read = plan.read_gb_each_step ? ` ${plan.read_gb_each_step.toFixed(2)} GB are read from disk in every step.` : "";
  byId("plan").replaceChildren(
    element("p", {}, `Of ${plan.budget_gb.toFixed(1)} GB that this machine has for it.${read}`),
    element("table", {}, head, element("tbody", {}, ...rows)),
    ...plan.notices.map((text) => element("p", {}, text)));
  byId("plan").hidden = false;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    await ask("/v1/videos", { method: "POST", body: formData() });
    say("The video is in the queue.");
    await refresh();
  });
});

byId("plan-button").addEventListener("click", async (event) => {
  const button = event.currentTarget;
  button.disabled = true;
  byId("plan").hidden = true;
  const plan = await attempt(() => ask("/api/plan", { method: "POST", body: formData() }));
  if (plan) showPlan(plan);
  button.disabled = false;
});

form.elements.model.addEventListener("change", () => {
  if (!chosenModel()?.takes.includes("image")) setImage(null);
  showModel();
});
form.elements.image.addEventListener("change", (event) => setImage(event.target.files[0] ?? image));
byId("image-remove").addEventListener("click", () => setImage(null));
for (const name of ["dragover", "dragleave", "drop"]) {
  byId("drop").addEventListener(name, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", name === "dragover");
    const file = name === "drop" ? event.dataTransfer.files[0] : null;
    if (file) setImage(file);
  });
}

// ---- the lists

const facts = (video) =>
  [video.model, video.size.replace("x", "×"), `${Number(video.seconds).toFixed(1)} s`, `seed ${video.settings.seed}`].join(" · ");

function tool(text, label, work, attributes = {}) {
  return element("button", {
    type: "button", class: "small", "aria-label": label, title: label, ...attributes,
    onclick: () => attempt(async () => { await work(); await refresh(); }),
  }, text);
}

function showNow() {
  const place = byId("now");
  if (!current) {
    place.replaceChildren(element("p", { class: "empty" }, "Nothing is being made."));
    return;
  }
  const id = current.id;
  const told = live.progress?.id === id ? live.progress : {};
  const preview = live.preview?.id === id ? live.preview.image : null;
  const percent = told.progress ?? current.progress;
  const left = told.left != null ? `about ${inWords(told.left)} left` : "";
  const state = [`${percent} %`, told.text || told.stage, left].filter(Boolean).join(" · ");
  if (place.firstElementChild?.dataset.id !== id) {
    place.replaceChildren(element("div", { class: "making", "data-id": id },
      element("img", { alt: "Frames of the video as they are now", hidden: true }),
      element("div", {}, element("p", { class: "prompt" }, current.prompt), element("p", { class: "facts" }, facts(current))),
      element("progress", { max: 100, "aria-label": "Progress" }),
      element("div", { class: "line" }, element("p", { class: "facts", id: "now-state" }),
        tool("Cancel", "Cancel this video", () => post(`/api/videos/${id}/cancel`)))));
  }
  const picture = place.querySelector("img");
  picture.hidden = !preview;
  if (preview && picture.getAttribute("src") !== preview) picture.src = preview;
  place.querySelector("progress").value = percent;
  byId("now-state").textContent = state;
}

function queueItem(video, index, all) {
  const move = (before) => post(`/api/videos/${video.id}/move`, { before: before ?? null });
  const item = element("li", {
    draggable: "true", "data-id": video.id,
    ondragstart: (event) => event.dataTransfer.setData("text/x-video", video.id),
    ondragover: (event) => { event.preventDefault(); item.classList.add("over"); },
    ondragleave: () => item.classList.remove("over"),
    ondrop: (event) => {
      event.preventDefault();
      const moved = event.dataTransfer.getData("text/x-video");
      if (moved && moved !== video.id) {
        attempt(async () => { await post(`/api/videos/${moved}/move`, { before: video.id }); await refresh(); });
      }
    },
  },
  element("div", {}, element("p", { class: "prompt" }, video.prompt), element("p", { class: "facts" }, facts(video))),
  element("div", { class: "tools" },
    tool("↑", "Make it earlier", () => move(all[index - 1].id), { disabled: index === 0 }),
    tool("↓", "Make it later", () => move(all[index + 2]?.id), { disabled: index === all.length - 1 }),
    tool("Cancel", "Cancel this video", () => post(`/api/videos/${video.id}/cancel`))));
  return item;
}

function galleryItem(video) {
  const content = `/v1/videos/${video.id}/content`;
  const done = video.status === "completed";
  const made = Object.entries(Object.keys(video.made).length ? video.made : video.settings);
  const list = element("dl", {}, ...made.filter(([name, value]) => name !== "prompt" && value !== "")
    .flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]));
  const remove = tool("Delete", "Delete this video", async () => {
    if (confirm("Delete this video?")) await ask(`/v1/videos/${video.id}`, { method: "DELETE" });
  });
  return element("article", { "data-id": video.id, "aria-label": video.prompt },
    done ? element("video", { src: content, poster: `${content}?variant=thumbnail`, controls: true, loop: true, muted: true, preload: "none", playsinline: true }) : null,
    element("div", { class: "body" },
      done ? null : element("span", { class: `state ${video.status}` }, video.status),
      element("p", { class: "prompt" }, video.prompt),
      element("p", { class: "facts" }, facts(video)),
      video.error ? element("p", { class: "error" }, video.error.message) : null,
      element("details", {}, element("summary", {}, "Settings"), list),
      element("div", { class: "tools" },
        element("button", { type: "button", class: "small", "aria-label": "Use settings", title: "Use these settings again", onclick: () => fillForm(video) }, "Reuse"),
        done ? element("a", { class: "button", href: content, download: `${video.id}.mp4` }, "Save")
          : tool("Try again", "Put it back into the queue", () => post(`/api/videos/${video.id}/retry`)),
        remove)));
}

// What is there stays, so that a video that plays is not begun anew.
function keepKnown(place, videos, build) {
  const known = new Map([...place.children].map((child) => [child.dataset.key, child]));
  place.replaceChildren(...videos.map((video) => {
    const key = `${video.id} ${video.status}`;
    const shown = known.get(key) ?? build(video);
    shown.dataset.key = key;
    return shown;
  }));
}

let turn = 0;
async function refresh() {
  const mine = ++turn;
  const lists = await ask("/api/videos");
  if (mine !== turn) return; // a newer answer is on its way
  current = lists.current[0] ?? null;
  showNow();
  byId("queue-count").textContent = lists.queue.length ? `(${lists.queue.length})` : "";
  byId("queue").replaceChildren(...(lists.queue.length
    ? lists.queue.map(queueItem) : [element("p", { class: "empty" }, "No video waits.")]));
  keepKnown(byId("gallery"), lists.ended, galleryItem);
  if (!lists.ended.length) byId("gallery").replaceChildren(element("p", { class: "empty" }, "No video yet."));
}

// ---- events

function listen() {
  const events = new EventSource("/events");
  const state = byId("connection");
  events.onopen = () => {
    state.textContent = "connected";
    state.className = "on";
    refresh().catch(showError);
  };
  events.onerror = () => {
    state.textContent = "the server does not answer";
    state.className = "off";
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  };
  events.addEventListener("changed", () => refresh().catch(showError));
  events.addEventListener("progress", (event) => {
    live.progress = { ...(live.progress ?? {}), ...JSON.parse(event.data) };
    showNow();
  });
  events.addEventListener("preview", (event) => {
    live.preview = JSON.parse(event.data);
    showNow();
  });
}

async function start() {
  models = (await ask("/api/models")).models;
  form.elements.model.replaceChildren(...models.map((model) =>
    element("option", { value: model.name }, `${model.name} — ${model.title}`)));
  showModel();
  listen();
}

start().catch(showError);
