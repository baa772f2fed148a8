() => {
  // The Teach tab: files with the names of their folders, and a gallery in which choosing and labelling cost no round trip.
  // the same value again would be no change, so every other one ends with a space
  let stamp = 0;
  const send = (id, value) => {
    const target = document.querySelector(`#${id} textarea, #${id} input`);
    target.value = (typeof value === "string" ? value : JSON.stringify(value)) + " ".repeat(1 + (stamp++ % 2));
    target.dispatchEvent(new Event("input", { bubbles: true }));
  };

  // files

  const zone = () => document.querySelector("#ps-zone");
  const say = (words) => {
    document.querySelector("#ps-zone-said").textContent = words;
  };
  const upload = (files, seen) =>
    new Promise((resolve, reject) => {
      const form = new FormData();
      files.forEach(({ file }) => form.append("files", file, file.name));
      const request = new XMLHttpRequest();
      const config = window.gradio_config || {};
      request.open("POST", `${config.root || ""}${config.api_prefix || "/gradio_api"}/upload`);
      request.upload.onprogress = (event) => seen(event.loaded);
      request.onload = () => (request.status === 200 ? resolve(JSON.parse(request.responseText)) : reject());
      request.onerror = reject;
      request.send(form);
    });
  const question = () => document.querySelector("#ps-about-task .ps-classes")?.dataset.task;
  let line = Promise.resolve(); // one transfer after the other
  let failed = false; // one of those in line
  const bring = (files) => {
    // files : [{ file, name }], name with its folders; they belong to the question on which they were dropped
    const task = question();
    if (!files.length) return;
    if (!task) return say(zone().dataset.first);
    failed = failed && zone().classList.contains("ps-busy");
    line = line.then(() => transfer(files, task));
  };
  const transfer = async (files, task) => {
    zone().classList.add("ps-busy");
    const all = files.reduce((sum, { file }) => sum + file.size, 0) || 1;
    const arrived = [];
    let sent = 0;
    try {
      while (files.length) {
        const part = files.splice(0, 50);
        const paths = await upload(part, (now) => {
          say(`${zone().dataset.sending}: ${Math.min(100, Math.round((100 * (sent + now)) / all))} %`);
        });
        part.forEach(({ file, name }, i) => {
          sent += file.size;
          arrived.push({ path: paths[i], name });
        });
      }
      send("ps-files", { task, files: arrived });
    } catch {
      failed = true;
    }
    say(failed ? zone().dataset.failed : "");
    zone().classList.remove("ps-busy");
  };
  const named = (list) => [...list].map((file) => ({ file, name: file.webkitRelativePath || file.name }));
  const below = async (entry) => {
    // all files of a dropped folder
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      return [{ file, name: entry.fullPath.replace(/^\//, "") }];
    }
    const reader = entry.createReader();
    const found = [];
    for (;;) {
      const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!entries.length) return found;
      for (const each of entries) found.push(...(await below(each)));
    }
  };
  document.addEventListener("change", (event) => {
    if (!event.target.closest("#ps-zone")) return;
    bring(named(event.target.files));
    event.target.value = "";
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      if (!event.target.closest || !event.target.closest("#ps-zone")) return;
      event.preventDefault();
      zone().classList.toggle("ps-over", kind === "dragover");
      if (kind !== "drop") return;
      const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
      const files = named(event.dataTransfer.files); // what a browser gives where it knows no folders
      if (entries.length) Promise.all(entries.map(below)).then((found) => bring(found.flat()));
      else bring(files);
    });
  }

  // the gallery: what is chosen outlives every redrawing

  const grid = () => document.querySelector("#ps-gallery .ps-grid");
  const cells = () => [...document.querySelectorAll("#ps-gallery .ps-case")];
  const at = (id) => document.querySelector(`#ps-gallery [data-case="${id}"]`);
  const chosen = new Set();
  let task = "";
  let focus = ""; // case ids
  let anchor = "";
  const paint = () => {
    if (!grid()) return;
    if (grid().dataset.task !== task) {
      chosen.clear();
      task = grid().dataset.task;
      focus = anchor = "";
    }
    const here = cells();
    if (!at(focus)) focus = here.length ? here[0].dataset.case : "";
    for (const cell of here) {
      cell.setAttribute("aria-selected", chosen.has(cell.dataset.case));
      cell.tabIndex = cell.dataset.case === focus ? 0 : -1;
    }
    const count = document.querySelector("#ps-tools .ps-count");
    if (!count) return;
    count.dataset.none = count.dataset.none || count.textContent;
    const known = [...chosen].filter(at).length;
    count.textContent = known ? count.dataset.chosen.replace("{}", known) : count.dataset.none;
  };
  const target = () => {
    // what a key or a button means: the chosen on this page, else the one with the focus
    const ids = cells().map((cell) => cell.dataset.case).filter((id) => chosen.has(id));
    return ids.length ? ids : focus && grid().contains(document.activeElement) ? [focus] : [];
  };
  const choose = (id, extend, add) => {
    const ids = cells().map((cell) => cell.dataset.case);
    if (extend && at(anchor)) {
      const [from, to] = [ids.indexOf(anchor), ids.indexOf(id)].sort((a, b) => a - b);
      if (!add) chosen.clear();
      ids.slice(from, to + 1).forEach((each) => chosen.add(each));
    } else if (add) {
      chosen.has(id) ? chosen.delete(id) : chosen.add(id);
      anchor = id;
    } else {
      chosen.clear();
      chosen.add(id);
      anchor = id;
    }
    focus = id;
    paint();
  };

  // labelling: on the screen at once, to the server one message after the other

  const waiting = [];
  let number = 0;
  let unanswered = null;
  let lost = false; // an answer never came
  const show = ({ cases, label }) => {
    const words = [...document.querySelectorAll("#ps-gallery template")].find((each) => each.dataset.label === label);
    for (const cell of cases.map(at).filter(Boolean)) {
      cell.className = `ps-case ${words ? words.dataset.kind : "ps-c0"}`;
      cell.querySelector(".ps-tag").innerHTML = words ? words.innerHTML : grid().dataset.bare;
      cell.setAttribute("aria-label", `${cell.dataset.said}; ${words ? words.dataset.words : grid().dataset.bare}`);
    }
  };
  const ask = (acts) => {
    const asked = (unanswered = { number: ++number, acts, lost });
    send("ps-acts", asked);
    setTimeout(() => {
      // the server never answered: what is on the screen may not be saved, so it is said, and redrawn from what is
      if (unanswered !== asked) return;
      lost = true;
      ask([]);
    }, 30000);
  };
  const flush = () => {
    if (!unanswered && waiting.length) ask(waiting.splice(0));
  };
  const act = (what) => {
    if (what.cases && !what.cases.length) return;
    if (what.cases) show(what);
    waiting.push({ ...what, task: grid()?.dataset.task || question() });
    flush();
  };
  const give = (label) => act({ cases: target(), label });
  const answered = () => {
    const said = document.querySelector("#ps-told [data-number]");
    if (unanswered && said && Number(said.dataset.number) === unanswered.number) {
      unanswered = null;
      lost = lost && waiting.length > 0; // said again with what had to wait
      flush();
    }
  };

  const open = (id, from = "") => send("ps-opened", `${id} ${from}`);
  const doing = {
    all: () => cells().forEach((cell) => chosen.add(cell.dataset.case)),
    none: () => chosen.clear(),
    undo: () => act({ undo: true }),
    open: () => target().length && open(target()[0]),
    erase: () => send("ps-to-erase", target()),
  };
  const closeLarge = () => {
    if (!document.querySelector("#ps-case .ps-large")) return false;
    open("");
    return true;
  };

  document.addEventListener("click", (event) => {
    const near = (what) => event.target.closest(what);
    const cell = near("#ps-gallery .ps-case");
    if (cell) {
      choose(cell.dataset.case, event.shiftKey, event.ctrlKey || event.metaKey || event.pointerType === "touch");
      cell.focus({ preventScroll: true });
    } else if (near("#ps-tools [data-give]")) {
      give(near("[data-give]").dataset.give);
    } else if (near("#ps-tools [data-act]")) {
      doing[near("[data-act]").dataset.act]();
      paint();
    } else if (near("#ps-teach [data-open]")) {
      open(near("[data-open]").dataset.open, near("#ps-cell, #ps-seen") ? "result" : "");
    } else if (near("#ps-pages [data-page]")) {
      send("ps-turned", near("[data-page]").dataset.page);
    } else if (near("#ps-outcome [data-cell]")) {
      document.querySelectorAll("#ps-outcome [data-cell]").forEach((each) => each.removeAttribute("aria-current"));
      near("[data-cell]").setAttribute("aria-current", "true");
      send("ps-asked-cell", near("[data-cell]").dataset.cell);
    } else if (near("#ps-coming [data-class]")) {
      near("[data-class]").disabled = true;
      send("ps-stray", near("[data-class]").dataset.class);
    }
  });
  document.addEventListener("dblclick", (event) => {
    const cell = event.target.closest("#ps-gallery .ps-case");
    if (cell) open(cell.dataset.case);
  });

  let following = 0; // the enlarged image follows the focus
  const move = (event, by) => {
    const here = cells();
    const next = here[Math.min(here.length - 1, Math.max(0, here.findIndex((cell) => cell.dataset.case === focus) + by))];
    if (!next) return;
    if (event.shiftKey && !at(anchor)) anchor = focus;
    if (event.ctrlKey || event.metaKey) focus = next.dataset.case;
    else choose(next.dataset.case, event.shiftKey, false); // what one looks at is what a number labels
    paint();
    next.focus();
    clearTimeout(following);
    if (document.querySelector("#ps-case .ps-large")) following = setTimeout(() => open(focus), 150);
  };
  const columns = () => {
    const here = cells();
    const top = here[0] ? here[0].offsetTop : 0;
    return here.filter((cell) => cell.offsetTop === top).length || 1;
  };
  document.addEventListener("keydown", (event) => {
    if (!grid() || !event.target.closest("#ps-gallery, #ps-tools, #ps-case") || event.altKey) return;
    const key = event.key.toLowerCase();
    const control = event.ctrlKey || event.metaKey;
    const gives = [...document.querySelectorAll("#ps-tools [data-give]")].filter((each) => each.dataset.give);
    const moves = { arrowleft: -1, arrowright: 1, arrowup: -columns(), arrowdown: columns(), home: -1e9, end: 1e9 };
    const inGrid = event.target.closest("#ps-gallery");
    if (key in moves && inGrid) move(event, moves[key]);
    else if (control && key === "z") doing.undo();
    else if (key === "a" && inGrid) doing.all();
    else if (control) return;
    else if (key === "u") doing.undo();
    else if (key === "0") give("");
    else if (/^[1-9]$/.test(key) && gives[key - 1]) give(gives[key - 1].dataset.give);
    else if (key === "escape") closeLarge() || doing.none();
    else if (key === " " && inGrid) choose(focus, false, true);
    else if (key === "enter" && inGrid) open(focus);
    else if (["pagedown", "pageup"].includes(key) && inGrid) {
      const turn = document.querySelectorAll("#ps-pages button")[key === "pagedown" ? 1 : 0];
      if (turn) turn.click();
    } else return;
    event.preventDefault();
    paint();
  });

  // The server has drawn the gallery: what is chosen, who has the focus and what is not yet confirmed are shown again
  let had = false;
  document.addEventListener("focusin", (event) => {
    had = Boolean(event.target.closest("#ps-gallery"));
  });
  let drawn = "";
  let wasLarge = false;
  new MutationObserver(() => {
    answered();
    const isLarge = Boolean(document.querySelector("#ps-case .ps-large"));
    if (isLarge !== wasLarge && at(focus)) at(focus).scrollIntoView({ block: "nearest" }); // the gallery is narrower now
    wasLarge = isLarge;
    const now = grid();
    if (!now || now.dataset.drawn === drawn) return;
    drawn = now.dataset.drawn;
    const lost = had && document.activeElement === document.body;
    [...(unanswered ? unanswered.acts : []), ...waiting].filter((each) => each.cases).forEach(show);
    paint();
    if (lost && at(focus)) at(focus).focus({ preventScroll: true });
  }).observe(document.body, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-drawn", "data-number"] });
}
