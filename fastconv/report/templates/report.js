"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const views = {};

  // Theme: as the system has it, else what was asked for last. Storage may be closed to files.
  const themes = ["auto", "light", "dark"];
  const button = document.getElementById("theme");
  const show = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = theme;
  };
  let theme = "auto";
  try { theme = themes.includes(localStorage.theme) ? localStorage.theme : "auto"; } catch { /* stays auto */ }
  show(theme);
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    show(theme);
    try { localStorage.theme = theme; } catch { /* not kept */ }
  });

  // Plots.
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const drawn = all("[data-plot]").map(async (figure) => {
    const options = { renderer: "svg", actions: false, tooltip: { theme: "page", disableDefaultStyle: true } };
    views[figure.dataset.plot] = (await vegaEmbed(figure, { ...plots[figure.dataset.plot], datasets: plots.datasets }, options)).view;
  });
  all("select[data-focus]").forEach((select) => {
    select.addEventListener("change", () => {
      select.dataset.focus.split(" ").forEach((name) => views[name]?.signal("focus", select.value).runAsync());
    });
  });

  // Tables. Cells without a figure come last, upwards and downwards.
  const compare = (sign) => (a, b) => (a === "") - (b === "") || sign * (a - b);
  DataTable.ext.type.order["figure-asc"] = compare(1);
  DataTable.ext.type.order["figure-desc"] = compare(-1);
  const plain = { paging: false, info: false, autoWidth: false, order: [], layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null } };
  const tables = {};
  for (const element of all("table[id]")) {
    const columns = all("thead th", element).map((th) => (th.dataset.type ? { type: th.dataset.type } : { type: "string" }));
    tables[element.id] = new DataTable(element, { ...plain, columns, language: { zeroRecords: "nothing like that" } });
  }
  all("form.filters").forEach((form) => {
    const table = tables[form.dataset.for];
    const count = form.querySelector("output");
    const update = () => {
      const chosen = [...new FormData(form)].filter(([name, value]) => value && name !== "text");
      table.search(form.elements.text.value);
      table.search.fixed("facets", (text, data, index) => {
        const { dataset } = table.row(index).node();
        return chosen.every(([name, value]) => dataset[name] === value || (name === "role" && dataset.role.split(" ").includes(value)));
      });
      table.draw();
      const left = table.rows({ search: "applied" }).count();
      count.textContent = left === table.rows().count() ? `${left} rows` : `${left} of ${table.rows().count()}`;
    };
    for (const event of ["input", "change"]) form.addEventListener(event, update);
    form.addEventListener("submit", (event) => event.preventDefault());
    update();
  });

  // Cases: a link opens the one it leads to, and paper has them all.
  const cases = all("details.case");
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target?.matches("details")) {
      target.open = true;
      target.scrollIntoView();
    }
  };
  addEventListener("hashchange", reveal);
  reveal();
  all(".open-all").forEach((opener) => {
    opener.addEventListener("click", () => {
      const open = cases.some((part) => !part.open);
      cases.forEach((part) => { part.open = open; });
      opener.textContent = open ? "close all" : "open all";
    });
  });
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    closed.forEach((part) => { part.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((part) => { part.open = false; }));

  // Commands are copied.
  const copy = async (code) => {
    try { await navigator.clipboard.writeText(code.textContent); } catch { getSelection().selectAllChildren(code); return; }
    code.classList.add("copied");
    setTimeout(() => code.classList.remove("copied"), 900);
  };
  document.addEventListener("click", (event) => {
    const code = event.target.closest("code.copy");
    if (code) copy(code);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches("code.copy")) copy(event.target);
  });

  // For tests and pictures: the page is complete.
  Promise.all(drawn).then(() => { document.documentElement.dataset.ready = "yes"; });
})();
