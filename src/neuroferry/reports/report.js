"use strict";
(function () {
  // Pictures: one button for each view, and one that flickers between the first two.
  document.querySelectorAll("figure.reportlet").forEach(function (figure) {
    var views = Array.from(figure.querySelectorAll("g.nf-view"));
    var controls = figure.querySelector(".controls");
    var timer = null;
    function button(label) {
      var b = document.createElement("button");
      b.type = "button";
      b.textContent = label;
      b.setAttribute("aria-pressed", "false");
      controls.appendChild(b);
      return b;
    }
    var buttons = [];
    function show(n) {
      views.forEach(function (view, i) { view.style.display = i === n ? "" : "none"; });
      buttons.forEach(function (b, i) { b.setAttribute("aria-pressed", String(i === n)); });
    }
    function stop() {
      clearInterval(timer);
      timer = null;
      if (flicker) { flicker.setAttribute("aria-pressed", "false"); }
    }
    var flicker = null;
    var first = views.findIndex(function (view) { return view.classList.contains("nf-top"); });
    if (views.length > 1) {
      buttons = views.map(function (view, n) {
        var b = button(view.dataset.label);
        b.addEventListener("click", function () { stop(); show(n); });
        return b;
      });
      flicker = button("Flicker");
      flicker.addEventListener("click", function () {
        if (timer) { stop(); return; }
        var n = 0;
        flicker.setAttribute("aria-pressed", "true");
        show(0);
        timer = setInterval(function () { n = 1 - n; show(n); }, 800);
      });
      show(Math.max(first, 0));
    }
    if (views.length) {
      var large = button("Enlarge");
      large.addEventListener("click", function () {
        var on = figure.querySelector(".picture").classList.toggle("large");
        large.setAttribute("aria-pressed", String(on));
      });
    }
  });

  // A link to a run unfolds it.
  function unfold() {
    var target = document.getElementById(location.hash.slice(1));
    if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
  }
  window.addEventListener("hashchange", unfold);
  unfold();

  // Tables: a button in each head sorts by its column; empty cells stay at the end.
  document.querySelectorAll("table.sortable").forEach(function (table) {
    var body = table.tBodies[0];
    Array.from(table.tHead.rows[0].cells).forEach(function (cell, column) {
      var b = document.createElement("button");
      b.type = "button";
      b.textContent = cell.textContent;
      cell.textContent = "";
      cell.appendChild(b);
      b.addEventListener("click", function () {
        var up = cell.getAttribute("aria-sort") !== "ascending";
        Array.from(table.tHead.rows[0].cells).forEach(function (other) {
          other.removeAttribute("aria-sort");
        });
        cell.setAttribute("aria-sort", up ? "ascending" : "descending");
        var key = function (row) { return row.cells[column].dataset.sort || ""; };
        Array.from(body.rows).sort(function (a, b) {
          var x = key(a), y = key(b);
          if (x === "" || y === "") { return (x === "") - (y === ""); }
          var order = isNaN(x) || isNaN(y) ? x.localeCompare(y, "en", {numeric: true}) : x - y;
          return up ? order : -order;
        }).forEach(function (row) { body.appendChild(row); });
      });
    });
  });

  // The overview's filter by status and by name.
  var filter = document.getElementById("filter");
  if (filter) {
    var rows = Array.from(document.querySelectorAll("table.sortable tbody tr"));
    var chosen = "";
    var apply = function () {
      var word = filter.value.trim().toLowerCase();
      rows.forEach(function (row) {
        var fits = (!chosen || row.dataset.level === chosen) &&
          (!word || row.textContent.toLowerCase().includes(word));
        row.classList.toggle("hidden", !fits);
      });
    };
    filter.addEventListener("input", apply);
    document.querySelectorAll("button[data-level]").forEach(function (b) {
      b.addEventListener("click", function () {
        chosen = b.dataset.level;
        document.querySelectorAll("button[data-level]").forEach(function (other) {
          other.setAttribute("aria-pressed", String(other === b));
        });
        apply();
      });
    });
  }
})();
