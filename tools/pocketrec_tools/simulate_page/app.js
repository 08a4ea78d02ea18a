// What happens. The browser holds the history; the server ranks whatever it is sent, with the real runtime.

import { $, called, events, fail, make, many, people, phone, plots, say } from "./view.js";

const state = {
  info: null, user: null, next: 0, history: [], clock: null, offline: false, other: -1,
  shown: [], asked: 0, playing: null, hits: 0, steps: 0,
};

async function call(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  };
  const answer = await fetch(path, options).catch(() => {
    throw new Error("The server does not answer: is `pocketrec simulate --serve` still running?");
  });
  const document = await answer.json();
  if (!answer.ok) throw new Error(`${document.error.message} (${document.error.code})`);
  return document;
}

function ask(which) {
  return call("/api/rank", {
    phone: which, at: state.clock, offline: state.offline,
    history: state.history.map((event) => [event.item_id, event.event, event.time]),
  });
}

async function rank() {
  const turn = ++state.asked;
  const which = state.other >= 0 ? [0, state.other] : [0];
  const answers = await Promise.all(which.map(ask));
  if (turn !== state.asked) return; // a later question was asked meanwhile
  const before = state.shown;
  state.shown = answers;
  const kept = before[0] ? answers[0].items.filter((a) => before[0].items.some((b) => b.item_id === a.item_id)).length : 0;
  $("phones").replaceChildren(...which.map((number, place) =>
    phone(state.info.phones[number], answers[place], before[place], answers[1 - place], state.history, state.offline, (item) => press(item).catch(broke))));
  draw();
  say(`Ranked again: ${answers[0].items.length - kept} of ${answers[0].items.length} items are new. First: ${answers[0].items.length ? called(answers[0].items[0]) : "none"}.`);
}

function draw() {
  events(state.history, state.clock, (index) => remove(index).catch(broke));
  $("who").textContent = state.user ? `${state.user.id}, ${state.next} of ${state.user.events.length} events played` : "";
  const hint = state.history.length ? "" : state.user ? "Play an event, or press an item of the phone." : "Pick a person, or press an item of the phone.";
  $("score").textContent = state.steps ? `${state.hits} of ${state.steps} played events were in the list before them` : hint;
  $("next").disabled = $("play").disabled = !state.user || state.next >= state.user.events.length;
  $("play").firstChild.textContent = state.playing ? "Pause " : "Play a day ";
}

async function pick(row) {
  stop();
  state.user = await call(`/api/users/${row}`);
  start();
  await listPeople();
  await rank();
}

function start() {
  Object.assign(state, { history: [], next: 0, hits: 0, steps: 0, clock: null, shown: [] });
  $("clock").value = "";
}

// The person's own next event: what the data has, not what the list would have made of it.
async function next() {
  if (!state.user || state.next >= state.user.events.length) return stop();
  const event = state.user.events[state.next++];
  const place = state.shown[0] ? state.shown[0].items.findIndex((item) => item.item_id === event.item_id) : -1;
  state.steps += 1;
  state.hits += place >= 0 ? 1 : 0;
  state.history.push({ ...event, verdict: place >= 0 ? `hit, rank ${place + 1}` : "miss" });
  await rank();
}

function stop() {
  clearTimeout(state.playing);
  state.playing = null;
  draw();
}

function play() {
  if (state.playing) return stop();
  if (!state.user || state.next >= state.user.events.length) return;
  const until = state.user.events[state.next].time + 86400;
  const step = async () => {
    const more = state.next < state.user.events.length && state.user.events[state.next].time < until;
    if (!more || !state.playing) return stop();
    await next();
    if (state.playing) state.playing = setTimeout(() => step().catch(broke), 700);
  };
  state.playing = setTimeout(() => step().catch(broke), 0);
  draw();
}

async function press(item) {
  const times = state.history.map((event) => event.time).filter((time) => time !== null);
  const now = state.clock ?? (times.length ? Math.max(...times) + 60 : Math.floor(Date.now() / 1000));
  state.history.push({ item_id: item.item_id, title: item.title, event: $("kind").value, time: now, verdict: "" });
  await rank();
  const first = document.querySelector(".feed button");
  if (first) first.focus();
}

async function remove(index) {
  state.history.splice(index, 1);
  await rank();
}

async function listPeople() {
  const found = await call(`/api/users?search=${encodeURIComponent($("search").value)}`);
  people(found, state.user ? state.user.row : -1, (row) => pick(row).catch(broke));
}

function broke(error) {
  stop();
  fail(error);
}

function on(id, type, action) {
  $(id).addEventListener(type, (event) => {
    fail(null);
    Promise.resolve(action(event)).catch(broke);
  });
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const feed = [...document.querySelectorAll(".feed button")];
  const here = feed.indexOf(document.activeElement);
  if (here >= 0 && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    feed[(here + (event.key === "ArrowDown" ? 1 : feed.length - 1)) % feed.length].focus();
    event.preventDefault();
  }
  if (event.target.matches("input:not([type=checkbox]), select")) return;
  const action = { n: "next", d: "play", r: "restart", o: "offline" }[event.key];
  if (action) $(action).click();
  if (event.key === "/") {
    $("search").focus();
    event.preventDefault();
  }
}

async function main() {
  state.info = await call("/api/info");
  const { phones, data } = state.info;
  $("about").textContent = `${many(data.users)} users, ${many(data.events)} events · the real runtime ranks; nothing leaves this machine`;
  $("other").replaceChildren(
    make("option", { value: "-1" }, "nothing"),
    ...phones.map((about, number) => make("option", { value: number }, `${about.name} · ${about.bundle}`)).slice(1));
  $("kind").replaceChildren(...phones[0].events.map((kind) => make("option", { value: kind }, kind || "plain event")));
  on("search", "input", listPeople);
  on("next", "click", next);
  on("play", "click", play);
  on("restart", "click", () => { stop(); start(); return rank(); });
  on("offline", "change", (event) => { state.offline = event.target.checked; return rank(); });
  on("other", "change", (event) => { state.other = Number(event.target.value); return rank(); });
  on("clock", "change", (event) => {
    const parsed = Date.parse(`${event.target.value}Z`);
    state.clock = Number.isNaN(parsed) ? null : Math.floor(parsed / 1000);
    return rank();
  });
  on("clock-now", "click", () => { state.clock = null; $("clock").value = ""; return rank(); });
  document.addEventListener("keydown", keys);
  plots(state.info.plots);
  $("report").hidden = !state.info.report;
  await listPeople();
  await rank();
}

main().catch(broke);
