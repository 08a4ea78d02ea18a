// What is drawn. All text goes in as text: titles come from bundles, and are nobody's markup.

export const $ = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") node.addEventListener("click", value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export const day = (seconds) =>
  seconds === null ? "" : new Date(seconds * 1000).toISOString().replace("T", " ").slice(0, 19);

export const many = (count) => count.toLocaleString("en");

export const called = (thing) => thing.title || thing.item_id;

export function say(text) {
  $("live").textContent = text;
}

export function fail(error) {
  $("error").hidden = !error;
  $("error").textContent = error ? String(error.message || error) : "";
}

export function people(found, current, pick) {
  $("found").textContent = `${many(found.total)} users${found.total > found.users.length ? `, the first ${found.users.length}` : ""}`;
  $("people").replaceChildren(
    ...found.users.map((user) =>
      make("li", {},
        make("button", { type: "button", "aria-current": String(user.row === current), onclick: () => pick(user.row) },
          make("span", {}, user.id), make("span", { class: "soft" }, `${user.events} events`)))));
}

export function events(history, clock, remove) {
  const rows = history.map((event, index) => {
    const later = clock !== null && event.time !== null && event.time > clock;
    return make("li", { "data-index": index, class: later ? "later" : null },
      make("span", { class: "name" }, called(event),
        make("span", { class: "soft" }, ` ${event.event} ${day(event.time)}${later ? " (after the clock)" : ""}`)),
      event.verdict ? make("span", { class: event.verdict.startsWith("hit") ? "hit" : "miss" }, event.verdict) : "",
      make("button", { type: "button", "aria-label": `What if this event had not been: ${called(event)}`, onclick: () => remove(index) }, "×"));
  });
  $("events").replaceChildren(...rows.reverse());
}

export function phone(about, answer, before, other, history, offline, press) {
  const shared = new Set(other ? other.items.map((item) => item.item_id) : []);
  const old = new Set(before ? before.items.map((item) => item.item_id) : []);
  const feed = answer.items.map((item, place) => {
    const fresh = before && !old.has(item.item_id);
    const why = item.why
      .filter((near) => near.index < history.length)
      .map((near) => `${called(history[near.index])} (${near.similarity.toFixed(2)})`)
      .join(" · ");
    const marks = [fresh ? "new" : "", other ? (shared.has(item.item_id) ? "both" : "only here") : ""];
    return make("li", {},
      make("button", {
        type: "button", class: fresh ? "new" : null, "data-item": item.item_id,
        title: "Press: the phone records it and ranks again", onclick: () => press(item),
      },
      make("span", { class: "soft" }, String(place + 1)),
      make("span", { class: "title" }, called(item)),
      make("span", { class: "mark" }, marks.filter(Boolean).join(", ")),
      make("span", { class: "why" }, why ? `near ${why}` : answer.fallback ? "popular: nothing known yet" : "")));
  });
  const net = answer.network_tries === null ? "online" : `offline, ${answer.network_tries} calls tried`;
  return make("article", { class: "phone", "aria-label": `Phone ${about.name}` },
    make("h3", {}, `${about.name} · ${about.bundle}, ${about.precision}`),
    make("p", { class: "soft state" }, make("span", {}, about.engine), make("span", { class: "net" }, net),
      make("span", {}, `${answer.milliseconds.toFixed(1)} ms`)),
    answer.skipped ? make("p", { class: "soft" }, `${answer.skipped} events skipped: not in this catalogue`) : "",
    make("ol", { class: "feed", "aria-label": `Feed of phone ${about.name}` }, ...feed));
}

export function plots(names) {
  $("run").hidden = !names.length;
  $("plots").replaceChildren(
    ...names.map((name) => make("img", { src: `/plots/${encodeURIComponent(name)}.svg`, alt: `Plot: ${name.replaceAll("_", " ")}`, loading: "lazy" })));
}
