() => {
  // A button in the lists of the Library says what is to be done; the server hears it through a field that nobody sees.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]");
    if (!button) return;
    for (const each of document.querySelectorAll(".ps-set[aria-pressed=true]")) {
      if (button.classList.contains("ps-set")) each.setAttribute("aria-pressed", "false");
    }
    if (button.classList.contains("ps-set")) button.setAttribute("aria-pressed", "true");
    const field = document.querySelector("#ps-library-do textarea, #ps-library-do input");
    field.value = button.dataset.do;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    const go = document.querySelector("button#ps-library-go, #ps-library-go button");
    setTimeout(() => go.click(), 60); // Svelte takes the value over first
  });
}
