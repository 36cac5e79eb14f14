// The plan page without reloading it: the form is sent, and only the answer of the page that comes
// back is exchanged. Without scripts the form does the same with a new page.

const form = document.querySelector("form.editor");
const text = document.getElementById("spec");
const status = document.getElementById("planning");
const button = form.querySelector("button");
const answer = document.getElementById("answer");

let newest = 0;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  plan();
});

text.addEventListener("input", () => {
  form.querySelector("[aria-current]")?.removeAttribute("aria-current"); // it is an example no more
});

text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  form.requestSubmit(button);
});

answer.addEventListener("click", (event) => {
  const line = event.target.closest("[data-line]")?.dataset.line;
  if (line === undefined) return;
  event.preventDefault();
  select(Number(line));
});

async function plan() {
  const mine = ++newest;
  status.textContent = "Planning…";
  try {
    const fresh = await ask();
    if (mine !== newest) return; // asked again meanwhile
    answer.replaceChildren(...document.adoptNode(fresh.getElementById("answer")).childNodes);
    const isInvalid = fresh.getElementById("spec").hasAttribute("aria-invalid");
    if (isInvalid) text.setAttribute("aria-invalid", "true");
    else text.removeAttribute("aria-invalid");
    status.textContent = isInvalid ? "The job spec has problems." : "Planned.";
    // On a narrow screen the answer is below the form.
    if (answer.getBoundingClientRect().top > 0.8 * innerHeight) answer.scrollIntoView();
  } catch {
    if (mine === newest) status.textContent = "The controller does not answer.";
  }
}

async function ask() {
  const body = new URLSearchParams(new FormData(form));
  const page = await fetch(form.action, { method: "POST", body, headers: { Accept: "text/html" } });
  const fresh = new DOMParser().parseFromString(await page.text(), "text/html");
  // Whatever else came back, such as the way to log in, is a page of its own.
  if (fresh.getElementById("answer") === null) throw new Error(page.statusText);
  return fresh;
}

/** Puts the cursor on a line, counted from 1, and brings it into sight. */
function select(line) {
  const lines = text.value.split("\n");
  const start = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
  text.focus();
  text.setSelectionRange(start, start + (lines[line - 1] ?? "").length);
  text.scrollTop = (text.scrollHeight / lines.length) * Math.max(0, line - 4);
}
