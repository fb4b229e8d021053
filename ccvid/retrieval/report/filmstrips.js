// Rows of filmstrips. The URL's hash holds the whole state, so it can be bookmarked and Back works.
// Text from data only ever becomes textContent or an attribute's value, never markup.
"use strict";
(() => {
  const { views, subjects, chunkRows, threshold, widths, chunks } = globalThis.REPORT;
  const [UNKNOWN, RIGHT, WRONG, JUNK] = [0, 1, 2, 3]; // as Mark
  const [FAILED, NO_MATCH] = ["2", "3"]; // as State
  const PAGE_ROWS = 50;
  const DEFAULTS = { view: views[0].name, camera: "", order: "first", search: "", from: "", to: "", failures: "", junk: "1", page: "1", q: "" };
  const MARKS = { [RIGHT]: ["right", "✓"], [WRONG]: ["wrong", "✗"], [JUNK]: ["junk", "junk"], [UNKNOWN]: ["unknown", ""] };
  const NO_FILTER = { camera: "", search: "", from: "", to: "", failures: "", q: "" };
  const { compare } = new Intl.Collator("en", { numeric: true });
  const byId = (id) => document.getElementById(id);
  const all = (selector) => document.querySelectorAll(selector);

  function element(tag, className, text, title) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    if (title) made.title = title;
    return made;
  }

  // --- state ---

  function readState() {
    const given = new URLSearchParams(location.hash.slice(1));
    return Object.fromEntries(Object.entries(DEFAULTS).map(([key, fallback]) => [key, given.get(key) ?? fallback]));
  }

  function hashOf(state) {
    const changed = Object.entries(state).filter(([key, value]) => value !== DEFAULTS[key]);
    return "#" + new URLSearchParams(changed);
  }

  function go(changes, { replace = false } = {}) {
    const target = hashOf({ ...readState(), page: "1", ...changes });
    if (target === (location.hash || "#")) return;
    if (replace) location.replace(target);
    else location.hash = target;
  }

  const viewOf = (state) => Math.max(0, views.findIndex((view) => view.name === state.view));

  function limit(text, otherwise) {
    const number = Number.parseFloat(text);
    return Number.isNaN(number) ? otherwise : number;
  }

  // --- which rows, in which order: indices into the view's own order ---

  function chosenPlaces(state) {
    const { subjects: numbers, states, values } = views[viewOf(state)];
    let places = numbers.map((_, place) => place);
    if (state.q) return places.filter((place) => subjects[numbers[place]][0] === state.q);
    const sought = state.search.trim().toLowerCase();
    const [least, most] = [limit(state.from, -Infinity), limit(state.to, Infinity)];
    const everyValue = least === -Infinity && most === Infinity; // also of rows without one
    places = places.filter((place) => {
      const [name, person, cameras] = subjects[numbers[place]];
      if (state.camera && !cameras.includes(state.camera)) return false;
      if (state.failures && states[place] !== FAILED) return false;
      const value = values[place];
      if (!everyValue && (value === null || value < least || value > most)) return false;
      return !sought || name.toLowerCase().includes(sought) || (person ?? "").toLowerCase().includes(sought);
    });
    if (state.order === "id") {
      const nameOf = (place) => subjects[numbers[place]][0];
      places.sort((a, b) => compare(nameOf(a), nameOf(b)));
    } else if (state.order === "last") {
      const judged = places.filter((place) => states[place] !== NO_MATCH).reverse();
      places = [...judged, ...places.filter((place) => states[place] === NO_MATCH)];
    }
    return places;
  }

  // --- data: one script per chunk, because pages on disk cannot fetch ---

  const loading = new Map();
  function load(key) {
    if (!loading.has(key)) {
      loading.set(key, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = `data/${key}.js`;
        script.onload = () => resolve(chunks[key]);
        script.onerror = () => { loading.delete(key); reject(new Error(`data/${key}.js cannot be read`)); };
        document.head.append(script);
      }));
    }
    return loading.get(key);
  }

  // --- rows ---

  const percent = (share) => `${Math.round(100 * share)} %`;

  function tracklet(captions, entry) {
    const [number, id, person, camera, clothes, time] = captions;
    const width = widths.others[number] ?? widths.most;
    const [, rank, score, probability, mark] = entry ?? [0, null, null, null, UNKNOWN];
    const [kind, sign] = entry ? MARKS[mark] : ["query", "query"];
    const figure = element("figure", `tracklet ${kind}`);
    const head = element("div", "head");
    const label = [rank, sign].filter((part) => part).join(" ");
    if (label) head.append(element("b", "place", label));
    if (score !== null) head.append(element("span", "score", score.toFixed(3), "score"));
    if (probability !== null) head.append(element("span", "probability", percent(probability), "probability of being the same person"));
    const picture = width ? element("img") : element("span", "no-picture", "no picture");
    if (width) {
      Object.assign(picture, { loading: "lazy", decoding: "async", width, height: 128 });
      picture.alt = `frames of ${id}`;
      picture.src = `pictures/${Math.floor(number / 1000)}/${number % 1000}.jpg`;
    }
    const caption = element("figcaption");
    if (person !== null) caption.append(element("div", "person", `person ${person}`, `person ${person}`));
    if (camera) caption.append(element("div", "camera", `camera ${camera}`, camera));
    if (time !== null) caption.append(element("div", "time", time, "time in the video"));
    if (clothes !== null) caption.append(element("div", "clothes", `clothes ${clothes}`, clothes));
    caption.append(element("div", "id", id, id));
    figure.append(head, picture, caption);
    figure.style.setProperty("--width", `${width || 74}px`);
    return figure;
  }

  function ranking(entries, captions) {
    const list = element("div", "ranking");
    list.tabIndex = 0;
    list.setAttribute("role", "group");
    list.setAttribute("aria-label", "gallery tracklets");
    let last = 0;
    let accepted = threshold !== null;
    for (const entry of entries) {
      const [place, rank, score, , mark] = entry;
      if (rank !== null) {
        if (rank > last + 1) list.append(element("div", "gap", "…", `${rank - last - 1} ranks not shown`));
        last = rank;
      }
      const shown = tracklet(captions[place], entry);
      if (accepted && mark !== JUNK && score !== null && score < threshold) {
        shown.classList.add("first-below");
        accepted = false;
      }
      list.append(shown);
    }
    if (!entries.length) list.append(element("p", "empty", "nothing to show"));
    return list;
  }

  function row(state, place, chunk) {
    const view = views[viewOf(state)];
    const [name, person] = subjects[view.subjects[place]];
    const [notes, query, entries] = chunk.rows[place % chunkRows];
    const article = element("article", "row");
    article.tabIndex = -1;
    article.dataset.name = name;
    const head = element("header");
    const link = element("a", "name", name, name);
    link.href = hashOf({ ...DEFAULTS, view: view.name, q: name });
    head.append(link);
    if (person !== null) head.append(element("span", "note person", `person ${person}`, person));
    for (const note of notes) head.append(element("span", "note", note));
    article.append(head);
    const line = element("div", "line");
    if (query !== null) line.append(tracklet(chunk.tracklets[query], null));
    line.append(ranking(entries, chunk.tracklets));
    article.append(line);
    return article;
  }

  // --- the page ---

  let turn = 0; // if renderings overlap, only the latest is shown
  async function render() {
    const mine = ++turn;
    const state = readState();
    const number = viewOf(state);
    const places = chosenPlaces(state);
    const pages = Math.max(1, Math.ceil(places.length / PAGE_ROWS));
    const page = pageOf(state, pages);
    showControls(state, number, places.length, page, pages);
    const wanted = JSON.stringify({ ...state, junk: "" }); // junk is shown or hidden by CSS, without new rows
    if (byId("rows").dataset.shown === wanted) return;
    const shown = places.slice((page - 1) * PAGE_ROWS, page * PAGE_ROWS);
    const rows = byId("rows");
    try {
      const keys = [...new Set(shown.map((place) => Math.floor(place / chunkRows)))];
      const loaded = new Map(await Promise.all(keys.map(async (key) => [key, await load(`${number}-${key}`)])));
      if (mine !== turn) return;
      rows.replaceChildren(...shown.map((place) => row(state, place, loaded.get(Math.floor(place / chunkRows)))));
      if (!shown.length) rows.append(element("p", "empty", state.q ? `No “${state.q}” in this view.` : "No rows match these filters."));
    } catch (error) {
      if (mine !== turn) return;
      rows.replaceChildren(element("p", "empty", `The report is incomplete: ${error.message}.`));
    }
    rows.dataset.shown = wanted;
  }

  function showControls(state, number, found, page, pages) {
    const view = views[number];
    const judged = /[12]/.test(view.states);
    fill("order", [["first", view.orders[0]], ["last", view.orders[1]], ["id", "by id"]], state.order);
    const cameras = new Set(view.subjects.flatMap((subject) => subjects[subject][2]));
    fill("camera", [["", "all"], ...[...cameras].sort(compare).map((camera) => [camera, camera])], state.camera);
    byId("view").value = view.name;
    for (const id of ["search", "from", "to"]) {
      if (byId(id) !== document.activeElement) byId(id).value = state[id];
    }
    byId("measure").textContent = view.measure;
    byId("failures").checked = Boolean(state.failures);
    byId("junk").checked = Boolean(state.junk);
    for (const id of ["failures-label", "junk-label"]) byId(id).hidden = !judged;
    for (const mark of all(".legend .right, .legend .wrong, .legend .junk")) mark.hidden = !judged;
    document.body.classList.toggle("without-junk", !state.junk);
    byId("description").textContent = view.description;
    const total = view.subjects.length;
    byId("count").textContent = `${found.toLocaleString("en")} of ${total.toLocaleString("en")} ${view.counted}`;
    byId("all").hidden = found === total;
    for (const text of all(".pages")) text.textContent = `of ${pages.toLocaleString("en")}`;
    for (const field of all(".page")) Object.assign(field, { value: page, max: pages });
    for (const button of all(".previous")) button.disabled = page <= 1;
    for (const button of all(".next")) button.disabled = page >= pages;
    for (const turning of all(".turn")) turning.hidden = pages === 1;
  }

  function fill(id, choices, chosen) {
    const key = JSON.stringify(choices);
    if (byId(id).dataset.key !== key) {
      byId(id).dataset.key = key;
      byId(id).replaceChildren(...choices.map(([value, text]) => Object.assign(element("option", "", text), { value })));
    }
    byId(id).value = chosen;
  }

  function pageOf(state, pages) {
    return Math.min(pages, Math.max(1, Number.parseInt(state.page, 10) || 1));
  }

  function openPage(page) {
    go({ page: String(page) });
    scrollTo(0, 0);
  }

  function turnPage(step) {
    const state = readState();
    const pages = Math.max(1, Math.ceil(chosenPlaces(state).length / PAGE_ROWS));
    openPage(Math.min(pages, Math.max(1, pageOf(state, pages) + step)));
  }

  function focusRow(step) {
    const rows = [...all("article.row")];
    const now = rows.indexOf(document.activeElement?.closest("article.row"));
    const next = rows[Math.min(rows.length - 1, Math.max(0, now + step))];
    next?.focus({ preventScroll: true });
    next?.scrollIntoView({ block: "start" });
  }

  const KEYS = {
    j: () => focusRow(1),
    k: () => focusRow(-1),
    n: () => turnPage(1),
    p: () => turnPage(-1),
    "/": () => byId("search").focus(),
  };

  function listen() {
    for (const id of ["view", "camera", "order"]) byId(id).addEventListener("change", () => go({ [id]: byId(id).value, q: "" }));
    for (const id of ["failures", "junk"]) {
      byId(id).addEventListener("change", () => go({ [id]: byId(id).checked ? "1" : "", ...(id === "junk" ? { page: readState().page } : { q: "" }) }));
    }
    for (const id of ["search", "from", "to"]) {
      byId(id).addEventListener("input", () => go({ [id]: byId(id).value, q: "" }, { replace: true }));
    }
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    byId("all").addEventListener("click", () => go(NO_FILTER));
    for (const button of all(".previous")) button.addEventListener("click", () => turnPage(-1));
    for (const button of all(".next")) button.addEventListener("click", () => turnPage(1));
    for (const field of all(".page")) field.addEventListener("change", () => openPage(field.value));
    addEventListener("hashchange", render);
    addEventListener("keydown", (event) => {
      const writing = event.target instanceof HTMLInputElement && event.target.type !== "checkbox";
      if (event.key === "Escape" && writing) event.target.blur();
      if (writing || event.ctrlKey || event.metaKey || event.altKey || event.target instanceof HTMLSelectElement) return;
      if (Object.hasOwn(KEYS, event.key)) {
        event.preventDefault();
        KEYS[event.key]();
      }
    });
  }

  fill("view", views.map((view) => [view.name, view.title]), views[0].name);
  byId("view-label").hidden = views.length === 1;
  if (threshold === null) byId("threshold-legend").remove();
  else byId("threshold-legend").textContent = `right of the line: below the threshold ${threshold.toFixed(3)}`;
  listen();
  render();
})();
