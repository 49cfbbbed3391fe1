// What the page does with JavaScript: it refreshes itself, and can be used by keyboard. All of it works without, too.
(() => {
  "use strict";

  const INTERVAL = 2000; // milliseconds between two refreshes
  const live = document.getElementById("live");
  const message = document.getElementById("message");
  const pause = document.getElementById("pause");
  const help = document.getElementById("help");
  const keys = document.getElementById("keys");

  // Refresh: the block "live" is fetched anew, and answered by 204 while nothing has changed.

  const isLive = live.hasAttribute("hx-get");
  let isPaused = sessionStorage.getItem("spoolkit-paused") === "yes";
  let isUnderWay = false;

  const selected = () => live.querySelectorAll('input[type="checkbox"]:checked');

  // A refresh must not take away what somebody is about to use. What is typed into the filter stays: it is morphed around.
  const isEditing = () => live.contains(document.activeElement) && document.activeElement.matches("textarea, select");
  const mustWait = () => isPaused || isUnderWay || document.hidden || selected().length > 0
    || document.querySelector("dialog[open]") !== null || isEditing();

  const say = (text) => { if (message.textContent !== text) message.textContent = text; };

  const refresh = () => {
    if (mustWait()) return;
    isUnderWay = true;
    live.dispatchEvent(new CustomEvent("spoolkit:refresh"));
  };

  const showPause = () => {
    pause.textContent = isPaused ? "Resume refresh" : "Pause refresh";
    say(isPaused ? "Refresh is paused." : "");
  };

  if (isLive) {
    pause.hidden = false;
    showPause();
    pause.addEventListener("click", () => {
      isPaused = !isPaused;
      sessionStorage.setItem("spoolkit-paused", isPaused ? "yes" : "no");
      showPause();
      refresh();
    });
    live.addEventListener("htmx:config:request", (event) => {
      event.detail.ctx.request.headers["If-None-Match"] = live.dataset.version;
    });
    live.addEventListener("htmx:after:request", (event) => {
      const { status, headers } = event.detail.ctx.response;
      if (status < 400) {
        live.dataset.version = headers.get("X-Spoolkit-Version") || live.dataset.version;
        say("");
      } else {
        say(`The refresh failed with status ${status}: this is what was known before.`);
      }
    });
    live.addEventListener("htmx:error", () => say("The site does not answer: this is what was known before."));
    live.addEventListener("htmx:finally:request", () => { isUnderWay = false; });
    live.addEventListener("change", () => {
      if (!isPaused) say(selected().length ? "Refresh waits while something is selected." : "");
    });
    document.addEventListener("visibilitychange", refresh);
    setInterval(refresh, INTERVAL);
  }

  // Keyboard.

  const rows = () => [...live.querySelectorAll("[data-row]")];
  const rowOf = (element) => element && element.closest("[data-row]");

  const go = (step) => {
    const all = rows();
    if (!all.length) return;
    const at = all.indexOf(rowOf(document.activeElement));
    const next = all[at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + step))];
    // The link first: in a box, Enter would send the form around it.
    const target = next.querySelector("a[href]") || next.querySelector("button, input") || next;
    if (target === next) next.tabIndex = -1;
    target.focus();
    next.scrollIntoView({ block: "nearest" });
  };

  const press = (selector, within = live) => {
    const found = within && within.querySelector(selector);
    if (found) found.click();
    return Boolean(found);
  };

  const actions = {
    "/": () => { const box = document.getElementById("filter"); if (box) box.focus(); },
    "j": () => go(1),
    "k": () => go(-1),
    "x": () => press('input[type="checkbox"]', rowOf(document.activeElement)),
    "r": () => press('[data-key="r"]', rowOf(document.activeElement)) || press('[data-key="r"]'),
    "?": () => keys.showModal(),
  };

  help.hidden = false;
  help.addEventListener("click", () => keys.showModal());
  document.addEventListener("keydown", (event) => {
    const isTyped = event.target.matches("input:not([type=checkbox]), textarea, select, [contenteditable]");
    if (isTyped || event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
    const act = actions[event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  });

  // A box that selects all rows of a table. A refresh brings it back as it was sent: hidden.

  const showBoxes = () => { for (const box of live.querySelectorAll("[data-select-all]")) box.hidden = false; };
  showBoxes();
  live.addEventListener("htmx:after:swap", showBoxes);

  live.addEventListener("change", (event) => {
    if (event.target.matches("[data-select-all]")) {
      for (const box of event.target.closest("table").querySelectorAll('tbody input[type="checkbox"]')) {
        box.checked = event.target.checked;
      }
    }
  });
})();
