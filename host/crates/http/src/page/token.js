// The view that asks for a token, where the host wants one.

import { hasToken, tryToken, whyRefused } from "./access.js";
import { el, show, setText } from "./dom.js";

/** What it leads to is told by `onAccess`. */
export class TokenView {
  title = "Token · Courtside";

  constructor() {
    this.why = el("p", { class: "note", id: "token-why" }, whyRefused());
    this.wrong = el("p", { class: "note bad", role: "alert" });
    show(this.wrong, false);
    this.input = el("input", {
      id: "token", name: "token", type: "password", required: "", autocomplete: "off",
      autocapitalize: "none", spellcheck: "false", "aria-describedby": "token-why",
    });
    this.without = el("button", { type: "button" }, "Go on without a token");
    show(this.without, hasToken());
    const form = el("form", { class: "token" },
      el("label", { for: "token" }, "Token"), this.input,
      el("p", { class: "row" }, el("button", { type: "submit" }, "Show the games"), this.without));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#try(this.input.value.trim());
    });
    this.without.addEventListener("click", () => this.#try(""));
    this.node = el("div", { class: "panel access" }, el("h1", { tabindex: "-1" }, "A token, please"), this.why, this.wrong, form);
  }

  open() {
    scrollTo(0, 0);
    this.input.focus();
  }

  close() {}

  update() {}

  async #try(value) {
    const words = await tryToken(value);
    if (words === "") return;
    setText(this.wrong, words);
    show(this.wrong, true);
    this.input.select();
  }
}
