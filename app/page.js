() => {
  // What Gradio's components cannot do: go to a frame by a click on its thumbnail or on the curve, and draw areas to cover.
  const field = (id) => document.querySelector(`#${id} textarea, #${id} input`);
  const press = (id) => (document.querySelector(`button#${id}`) || document.querySelector(`#${id} button`)).click();
  const write = (id, value) => {
    const target = field(id);
    target.value = value;
    target.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const later = (work) => setTimeout(work, 60); // Svelte takes the value over first

  const mark = (frame) => {
    // the line in the curve that stands at the frame on the screen
    const plot = document.querySelector("#ps-curve svg[data-frames]");
    if (!plot) return;
    const area = plot.querySelector(".ps-plot-area");
    const share = (frame - 1) / Math.max(1, plot.dataset.frames - 1);
    const x = Number(area.getAttribute("x")) + share * Number(area.getAttribute("width"));
    for (const end of ["x1", "x2"]) plot.querySelector(".ps-now").setAttribute(end, x);
  };

  document.addEventListener("click", (event) => {
    const thumb = event.target.closest("[data-frame]");
    const plot = event.target.closest("svg[data-frames]");
    let frame = 0;
    if (thumb) {
      frame = thumb.dataset.frame;
    } else if (plot) {
      const area = plot.querySelector(".ps-plot-area").getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (event.clientX - area.left) / area.width));
      frame = 1 + Math.round(share * (plot.dataset.frames - 1));
    } else if (event.target.closest("#ps-draw")) {
      const on = document.body.classList.toggle("ps-drawing");
      event.target.closest("#ps-draw").setAttribute("aria-pressed", on);
    }
    if (frame) {
      mark(frame);
      write("ps-goto", String(frame));
      later(() => press("ps-go"));
    }
  });
  document.addEventListener("input", (event) => {
    if (event.target.closest("#ps-frame")) mark(event.target.value);
  });

  // Acts are counted: the server may hear of them in another order, and files that are on their way when Clear is pressed are
  // not opened when they arrive. sent : the act by which files were chosen last
  const turn = (window.promptscopeTurn = { now: 0, sent: 0, next: () => ++turn.now });
  const sends = (event) => {
    if (event.type === "drop" || event.target.type === "file") turn.sent = turn.next();
  };
  for (const kind of ["change", "drop"]) document.addEventListener(kind, sends, true);

  let drawing = null;
  document.addEventListener("pointerdown", (event) => {
    const stage = event.target.closest(".ps-stage");
    if (!stage || !document.body.classList.contains("ps-drawing")) return;
    event.preventDefault();
    const rubber = document.createElement("div");
    rubber.className = "ps-rubber";
    stage.appendChild(rubber);
    drawing = { stage, rubber, area: stage.getBoundingClientRect(), x: event.clientX, y: event.clientY };
  });
  const extent = (event) => {
    const { area, x, y } = drawing;
    const across = [x, event.clientX].map((v) => Math.min(1, Math.max(0, (v - area.left) / area.width))).sort((a, b) => a - b);
    const down = [y, event.clientY].map((v) => Math.min(1, Math.max(0, (v - area.top) / area.height))).sort((a, b) => a - b);
    return { top: down[0], left: across[0], height: down[1] - down[0], width: across[1] - across[0] };
  };
  document.addEventListener("pointermove", (event) => {
    if (!drawing) return;
    const box = extent(event);
    for (const side of ["top", "left", "height", "width"]) drawing.rubber.style[side] = `${100 * box[side]}%`;
  });
  document.addEventListener("pointercancel", () => {
    if (drawing) drawing.rubber.remove();
    drawing = null;
  });
  document.addEventListener("pointerup", (event) => {
    if (!drawing) return;
    const box = extent(event);
    const rows = Number(drawing.stage.dataset.rows);
    const columns = Number(drawing.stage.dataset.columns);
    drawing.rubber.remove();
    drawing = null;
    const height = Math.ceil(box.height * rows);
    const width = Math.ceil(box.width * columns);
    if (!(height >= 2 && width >= 2)) return; // a click, not an area
    const area = [Math.floor(box.top * rows), Math.floor(box.left * columns), height, width].join(", ");
    const before = field("ps-covers").value.trim();
    write("ps-covers", before ? `${before}; ${area}` : area);
    later(() => press("ps-cover-apply"));
  });

  // Who waits is told by Gradio "queue: 3/5 |" (the third of five); people count those before them.
  new MutationObserver(() => {
    for (const said of document.querySelectorAll(".progress-text")) {
      for (const node of said.childNodes) {
        const found = /^queue: (\d+)\/\d+ \|/.exec(node.nodeType === Node.TEXT_NODE ? node.data.trim() : "");
        if (found) node.data = found[1] === "1" ? "you are next | " : `${found[1] - 1} before you | `;
      }
    }
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}
