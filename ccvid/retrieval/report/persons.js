// Persons, cameras' days and questions. The URL's hash holds the whole state, so it can be bookmarked and Back works.
// Text from data only ever becomes textContent or an attribute's value, never markup.
"use strict";
(() => {
  const { cameras, persons, days, questions, inAFile, widths, parts } = globalThis.PERSONS;
  const HEADER = "verdict,tracklet,other";
  const DEFAULTS = { view: questions ? "questions" : "persons", person: "", day: "", page: "1", search: "", order: "most" };
  const PAGE_ROWS = 50;
  const byId = (id) => document.getElementById(id);
  const all = (selector) => document.querySelectorAll(selector);
  const byNumber = new Map(persons.map((person, place) => [person[0], place]));
  const answered = [];

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

  const hashOf = (state) => "#" + new URLSearchParams(Object.entries(state).filter(([key, value]) => key === "view" || value !== DEFAULTS[key]));

  function go(changes, { replace = false } = {}) {
    const target = hashOf({ ...readState(), page: "1", ...changes });
    if (target === location.hash) return;
    if (replace) location.replace(target);
    else location.hash = target;
  }

  // --- data: one script per part, because pages on disk cannot fetch ---

  const loading = new Map();
  function load(key) {
    if (!loading.has(key)) {
      loading.set(key, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = `data/${key}.js`;
        script.onload = () => resolve(parts[key]);
        script.onerror = () => { loading.delete(key); reject(new Error(`data/${key}.js cannot be read`)); };
        document.head.append(script);
      }));
    }
    return loading.get(key);
  }

  // --- tracklets ---

  const percent = (share) => `${Math.round(100 * share)} %`;
  const hue = (number) => `hsl(${(number * 222.492) % 360} 60% 45%)`;

  function titleOf(number) {
    const name = persons[byNumber.get(number)]?.[1];
    return name ? `${name} (person ${number})` : `person ${number}`;
  }

  function personLink(number) {
    const link = element("a", "who", titleOf(number), titleOf(number));
    link.href = hashOf({ ...DEFAULTS, view: "person", person: String(number) });
    link.style.setProperty("--hue", hue(number));
    return link;
  }

  function tracklet(appearance, { withPerson = false } = {}) {
    const [picture, id, person, camera, day, , , time, outfit, confidence] = appearance;
    const width = widths.others[picture] ?? widths.most;
    const figure = element("figure", "tracklet unknown");
    figure.dataset.id = id;
    figure.tabIndex = -1;
    const shown = width ? element("img") : element("span", "no-picture", "no picture");
    if (width) {
      Object.assign(shown, { loading: "lazy", decoding: "async", width, height: 128 });
      shown.alt = `frames of ${id}`;
      shown.src = `pictures/${Math.floor(picture / 1000)}/${picture % 1000}.jpg`;
    }
    const caption = element("figcaption");
    if (withPerson) {
      const line = element("div", "person");
      line.append(personLink(person));
      caption.append(line);
    }
    caption.append(element("div", "camera", `camera ${cameras[camera]}`, cameras[camera]));
    if (day || time) caption.append(element("div", "time", [day, time].filter((part) => part).join(" "), "UTC"));
    caption.append(element("div", "clothes", `outfit ${outfit}, ${percent(confidence)} sure`, "how sure it is that this is the person"));
    caption.append(element("div", "id", id, id));
    figure.append(shown, caption);
    figure.style.setProperty("--width", `${width || 74}px`);
    return figure;
  }

  function strip(appearances, options) {
    const list = element("div", "ranking");
    list.tabIndex = 0;
    list.setAttribute("role", "group");
    list.setAttribute("aria-label", "tracklets");
    list.append(...appearances.map((appearance) => tracklet(appearance, options)));
    return list;
  }

  // --- a time line: a lane for each camera ---

  function timeline(appearances) {
    const timed = appearances.filter(([, , , , , start]) => start !== null);
    if (!timed.length) return null;
    const from = Math.min(...timed.map((one) => one[5]));
    const span = Math.max(1, Math.max(...timed.map((one) => one[6])) - from);
    const box = element("div", "timeline");
    for (const camera of [...new Set(timed.map((one) => one[3]))].sort((a, b) => a - b)) {
      const lane = element("div", "lane");
      lane.append(element("span", "lane-name", cameras[camera], cameras[camera]));
      const line = element("div", "lane-line");
      for (const one of timed.filter((other) => other[3] === camera)) {
        const mark = element("button", "moment");
        mark.type = "button";
        mark.title = `${one[7]} ${one[1]}`;
        mark.setAttribute("aria-label", `${one[7]} ${one[1]}`);
        mark.style.left = `${(100 * (one[5] - from)) / span}%`;
        mark.style.width = `${(100 * (one[6] - one[5])) / span}%`;
        mark.style.setProperty("--hue", hue(one[2]));
        mark.addEventListener("click", () => showTracklet(one[1]));
        line.append(mark);
      }
      lane.append(line);
      box.append(lane);
    }
    const ends = element("div", "lane ends");
    ends.append(element("span", "lane-name"), element("span", "from", timeOf(timed, from)), element("span", "to", timeOf(timed, from + span)));
    box.append(ends);
    return box;
  }

  function timeOf(timed, seconds) {
    const two = (number) => String(Math.floor(number)).padStart(2, "0");
    const text = `${two(seconds / 3600)}:${two((seconds / 60) % 60)}:${two(seconds % 60)}`;
    return timed[0][4] ? text : `${text} in the video`;
  }

  function showTracklet(id) {
    for (const figure of all("figure.tracklet")) {
      figure.classList.toggle("chosen", figure.dataset.id === id);
      if (figure.dataset.id === id) {
        figure.scrollIntoView({ block: "nearest", inline: "center" });
        figure.focus({ preventScroll: true });
      }
    }
  }

  // --- answers ---

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = element("textarea", "", text);
      document.body.append(area);
      area.select();
      document.execCommand("copy"); // where pages on disk have no clipboard
      area.remove();
    }
  }

  function answer(button, line) {
    button.addEventListener("click", async () => {
      if (!answered.includes(line)) answered.push(line);
      byId("lines").value = answered.join("\n");
      byId("answers").hidden = false;
      for (const other of button.parentElement.querySelectorAll("button")) other.classList.toggle("copied", other === button);
      await copy(line);
      button.dataset.copied = line;
    });
  }

  function answerButton(text, line) {
    const button = element("button", "answer", text, `copy: ${line}`);
    button.type = "button";
    answer(button, line);
    return button;
  }

  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

  function nameForm(number, id) {
    const form = element("form", "name-form");
    const field = element("input");
    Object.assign(field, { placeholder: "name", maxLength: 200 });
    field.setAttribute("aria-label", `name of person ${number}`);
    const button = element("button", "answer", "Copy the line that names");
    form.append(field, button);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const name = field.value.trim();
      if (!name) return;
      const line = `name,${quoted(id)},${quoted(name)}`;
      answered.push(line);
      byId("lines").value = answered.join("\n");
      byId("answers").hidden = false;
      await copy(line);
      button.dataset.copied = line;
      button.classList.add("copied");
    });
    return form;
  }

  function questionRow([first, second, probability, together, same, different]) {
    const article = element("article", "row question");
    const head = element("header");
    head.append(element("span", "name", `${percent(probability)} one person`, "probability"));
    const now = element("span", "note", together ? "taken for one: " : "taken for two: ");
    for (const number of new Set([first, second].filter((one) => one).map((one) => one[2]))) now.append(personLink(number), "  ");
    head.append(now);
    const buttons = element("span", "answer-buttons");
    buttons.append(answerButton("Same person", same), answerButton("Different people", different));
    head.append(buttons);
    article.append(head, strip([first, second].filter((one) => one), {}));
    return article;
  }

  // --- views: each gives heading, description, how many rows, and a function for some of them ---

  async function questionsView(numbers) {
    const wanted = numbers ?? Array.from({ length: questions }, (_, number) => number);
    return {
      heading: "Questions",
      description: "Pairs in doubt, the most valuable first. A click copies the line for the file of corrections, which --corrections reads.",
      total: wanted.length,
      counted: "questions",
      rows: async (from, to) => Promise.all(wanted.slice(from, to).map(async (number) => {
        const part = await load(`questions-${Math.floor(number / inAFile.questions)}`);
        return questionRow(part[number % inAFile.questions]);
      })),
    };
  }

  function chosenPersons(state) {
    const sought = state.search.trim().toLowerCase();
    const places = persons.map((_, place) => place).filter((place) => {
      const [number, name] = persons[place];
      return !sought || String(number) === sought || (name ?? "").toLowerCase().includes(sought);
    });
    const by = { most: (a, b) => persons[b][2] - persons[a][2], unsure: (a, b) => persons[a][6] - persons[b][6], number: () => 0 };
    return places.sort((a, b) => (by[state.order] ?? by.most)(a, b) || persons[a][0] - persons[b][0]);
  }

  const appearancesOf = async (place) => (await load(`person-${Math.floor(place / inAFile.person)}`))[place % inAFile.person];

  async function personsView(state) {
    const places = chosenPersons(state);
    return {
      heading: "Persons",
      description: "",
      total: places.length,
      counted: "persons",
      rows: async (from, to) => Promise.all(places.slice(from, to).map(async (place) => {
        const [number, , count, seenBy, outfits, seenOn, sure] = persons[place];
        const article = element("article", "row");
        article.dataset.name = String(number);
        const head = element("header");
        const words = [`${count} tracklets`, `${seenBy.length} cameras`, `${outfits} outfits`];
        if (seenOn.length) words.push(seenOn.length > 1 ? `${seenOn[0]} to ${seenOn.at(-1)}` : seenOn[0]);
        head.append(personLink(number), element("span", "note", words.join(", ")), element("span", "note", `at least ${percent(sure)} sure`));
        article.append(head, strip((await appearancesOf(place)).slice(0, 12), {}));
        return article;
      })),
    };
  }

  async function personView(state) {
    const place = byNumber.get(Number(state.person));
    if (place === undefined) return { heading: `No person ${state.person} on these pages`, description: "", total: 0, counted: "days", rows: async () => [] };
    const appearances = await appearancesOf(place);
    const dates = [...new Set(appearances.map((one) => one[4]))];
    return {
      heading: titleOf(persons[place][0]),
      description: "Every appearance, day by day, on the time line of all cameras.",
      total: dates.length,
      counted: dates.length === 1 ? "day" : "days",
      before: nameForm(persons[place][0], appearances[0][1]),
      rows: async (from, to) => dates.slice(from, to).map((date) => dayRow(date, appearances.filter((one) => one[4] === date), {})),
    };
  }

  function dayRow(date, appearances, options) {
    const article = element("article", "row");
    const head = element("header");
    head.append(element("span", "name", date || "time of day unknown"), element("span", "note", `${appearances.length} tracklets`));
    const line = timeline(appearances);
    article.append(...[head, line, strip(appearances, options)].filter((part) => part));
    return article;
  }

  async function daysView() {
    return {
      heading: "Cameras and days",
      description: "",
      total: days.length,
      counted: "days of cameras",
      rows: async (from, to) => days.slice(from, to).map(([camera, date, count, doubts], number) => {
        const article = element("article", "row");
        const link = element("a", "name", `${cameras[camera]}, ${date || "time of day unknown"}`);
        link.href = hashOf({ ...DEFAULTS, view: "day", day: String(from + number) });
        const head = element("header");
        head.append(link, element("span", "note", `${count} tracklets, ${doubts.length} questions`));
        article.append(head);
        return article;
      }),
    };
  }

  async function dayView(state) {
    const chosen = days[Number(state.day)];
    if (!chosen) return daysView();
    const [camera, date, , doubts] = chosen;
    const asked = await questionsView(doubts);
    return {
      heading: `${cameras[camera]}, ${date || "time of day unknown"}`,
      description: "The doubtful pairs first, then everyone who was seen.",
      total: doubts.length + 1,
      told: `${doubts.length} questions, then the day`,
      rows: async (from, to) => {
        const shown = await asked.rows(from, Math.min(to, doubts.length));
        if (to > doubts.length) shown.push(dayRow(date, await load(`day-${Number(state.day)}`), { withPerson: true }));
        return shown;
      },
    };
  }

  // --- the page ---

  const VIEWS = { questions: () => questionsView(), persons: personsView, person: personView, days: daysView, day: dayView };

  let turn = 0; // if renderings overlap, only the latest is shown
  async function render() {
    const mine = ++turn;
    const state = readState();
    const rows = byId("rows");
    try {
      const view = await (VIEWS[state.view] ?? VIEWS.persons)(state);
      const pages = Math.max(1, Math.ceil(view.total / PAGE_ROWS));
      const page = Math.min(pages, Math.max(1, Number.parseInt(state.page, 10) || 1));
      const made = await view.rows((page - 1) * PAGE_ROWS, page * PAGE_ROWS);
      if (mine !== turn) return;
      showControls(state, view, page, pages);
      rows.replaceChildren(...(view.before ? [view.before] : []), ...made);
      if (!made.length) rows.append(element("p", "empty", "Nothing to show."));
    } catch (error) {
      if (mine !== turn) return;
      rows.replaceChildren(element("p", "empty", `The pages are incomplete: ${error.message}.`));
    }
    rows.dataset.shown = JSON.stringify(state);
  }

  function showControls(state, view, page, pages) {
    byId("controls").hidden = state.view !== "persons";
    byId("heading").textContent = view.heading;
    byId("description").textContent = view.description;
    byId("count").textContent = view.told ?? `${view.total.toLocaleString("en")} ${view.counted}`;
    byId("order").value = state.order;
    if (byId("search") !== document.activeElement) byId("search").value = state.search;
    for (const [name, link] of [["questions", "to-questions"], ["persons", "to-persons"], ["days", "to-days"]]) {
      if (state.view.startsWith(name.slice(0, -1))) byId(link).setAttribute("aria-current", "page");
      else byId(link).removeAttribute("aria-current");
    }
    for (const text of all(".pages")) text.textContent = `page ${page} of ${pages.toLocaleString("en")}`;
    for (const button of all(".previous")) button.disabled = page <= 1;
    for (const button of all(".next")) button.disabled = page >= pages;
    for (const turning of all(".turn")) turning.hidden = pages === 1;
  }

  function turnPage(step) {
    const page = Number.parseInt(readState().page, 10) || 1;
    go({ page: String(Math.max(1, page + step)) });
    scrollTo(0, 0);
  }

  byId("order").addEventListener("change", () => go({ order: byId("order").value }));
  byId("search").addEventListener("input", () => go({ search: byId("search").value }, { replace: true }));
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("copy-all").addEventListener("click", () => copy([HEADER, ...answered, ""].join("\n")));
  for (const button of all(".previous")) button.addEventListener("click", () => turnPage(-1));
  for (const button of all(".next")) button.addEventListener("click", () => turnPage(1));
  addEventListener("hashchange", render);
  addEventListener("keydown", (event) => {
    const writing = event.target instanceof HTMLInputElement || event.target instanceof HTMLTextAreaElement;
    if (event.key === "Escape" && writing) event.target.blur();
    if (writing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/" && !byId("controls").hidden) {
      event.preventDefault();
      byId("search").focus();
    }
  });
  render();
})();
