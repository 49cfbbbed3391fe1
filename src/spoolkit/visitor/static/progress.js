// The progress bar of a job: asks its signed URL until the job is finished. See docs/progress.md of spoolkit.
"use strict";
(() => {
  if (customElements.get("spoolkit-progress")) return; // the script is on the page once for each bar

  const SHORTEST = 500, LONGEST = 10000, SHARE = 20, TIMEOUT = 15000, MOST_REFUSED = 5;
  const short = (number) => String(Number(number.toPrecision(6)));
  const UNFINISHED = ["queued", "running", "retrying"];

  customElements.define("spoolkit-progress", class extends HTMLElement {
    connectedCallback() {
      this.began = performance.now();
      this.refused = 0;
      this.onVisible = () => this.ask();
      document.addEventListener("visibilitychange", this.onVisible);
      this.ask();
    }

    disconnectedCallback() {
      clearTimeout(this.timer);
      document.removeEventListener("visibilitychange", this.onVisible);
    }

    async ask() {
      clearTimeout(this.timer);
      if (this.isAsking || this.isOver || document.hidden || !this.isConnected) return;
      this.isAsking = true;
      try {
        const answer = await fetch(this.dataset.url, {
          cache: "no-store",
          credentials: "same-origin",
          headers: { Accept: "application/json" },
          signal: AbortSignal.timeout(TIMEOUT),
        });
        if (answer.ok) this.show(await answer.json());
        else if (answer.status === 410) this.end("gone");
        // A job that waits for a commit is unknown until then.
        else if (answer.status === 404 && ++this.refused === MOST_REFUSED) this.end("gone");
      } catch {
        // The network or the server is away: the next time may do.
      } finally {
        this.isAsking = false;
      }
      if (this.isOver || document.hidden || !this.isConnected) return;
      // The longer the job takes, the more rarely it is asked.
      const age = performance.now() - this.began;
      this.timer = setTimeout(() => this.ask(), Math.min(LONGEST, Math.max(SHORTEST, age / SHARE)));
    }

    show({ state, progress, result_url }) {
      const bar = this.querySelector("progress"), result = this.querySelector("[data-result]");
      this.refused = 0;
      if (state === "done") bar.value = bar.max = 1;
      else if (progress?.total > 0) [bar.max, bar.value] = [progress.total, progress.done];
      else bar.removeAttribute("value");
      bar.hidden = false;
      // Without the number a note such as "rows" says nothing.
      const number = progress?.total > 0 && state !== "done" ? `${short(progress.done)} of ${short(progress.total)}` : "";
      this.say(this.querySelector("[data-note]"), `${number} ${progress?.note ?? ""}`.trim());
      if (result && result_url) {
        result.href = result_url;
        result.hidden = false;
      }
      this.tell(state);
      if (!UNFINISHED.includes(state)) this.end(state);
    }

    end(state) {
      this.isOver = true;
      this.querySelector("progress").hidden = state !== "done";
      this.tell(state);
      this.dispatchEvent(new CustomEvent("spoolkit:finished", { bubbles: true, detail: { state } }));
    }

    tell(state) {
      const link = this.querySelector("a:not([data-result])");
      link.hidden = true;
      this.dataset.state = state;
      this.say(this.querySelector("[role=status]"), `${link.textContent}: ${this.dataset[state] ?? state}`);
    }

    say(element, text) {
      // A screen reader reads what is set, also if it is the same as before.
      if (element.textContent !== text) element.textContent = text;
    }
  });
})();
