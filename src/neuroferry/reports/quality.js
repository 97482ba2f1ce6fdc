"use strict";
// The quality of all scans: distributions, limits that are applied at once, suggestions.
(function () {
  var source = document.getElementById("quality-data");
  if (!source) { return; }
  var data = JSON.parse(source.textContent);
  var rules = data.rules;
  var LEVELS = ["accept", "look", "exclude"];
  var COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#b2912f"];
  var WORST = ["higher", "lower", "near"];
  var ROWS = 100;
  var WIDTH = 400, LEFT = 12, RIGHT = 12;

  function element(name, attributes, text) {
    var made = document.createElement(name);
    Object.keys(attributes || {}).forEach(function (key) {
      made.setAttribute(key, attributes[key]);
    });
    if (text !== undefined) { made.textContent = text; }
    return made;
  }
  function escaped(text) {
    return String(text).replace(/[&<>"]/g, function (c) {
      return {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\"": "&quot;"}[c];
    });
  }
  var judging = window.neuroferryRules(rules);
  var known = judging.known, short = judging.short, median = judging.median;
  var text = judging.text, values = judging.values;

  function download(name, content) {
    var link = element("a", {download: name});
    link.href = URL.createObjectURL(new Blob([content], {type: "application/toml"}));
    document.body.appendChild(link);
    link.click();
    link.remove();
  }

  // --- the section of one modality ---

  function Section(kind, place) {
    var state = {colour: "", split: "", scope: "", show: "key", level: "", word: "", all: false};
    var verdicts = [], plots = [], hue = [], lanes = [];
    var counts = element("p", {"class": "counts", "aria-live": "polite"});
    var legend = element("p", {"class": "legend soft"});
    var grid = element("div", {"class": "strips"});
    var body = element("tbody");
    var more = element("p");
    var observer = new IntersectionObserver(function (seen) {
      seen.forEach(function (entry) {
        var plot = plots[Number(entry.target.dataset.plot)];
        if (plot) { plot.visible = entry.isIntersecting; if (plot.stale) { draw(plot); } }
      });
    }, {rootMargin: "300px"});
    window.addEventListener("beforeprint", function () {
      plots.forEach(function (plot) { if (plot.stale) { draw(plot); } });
    });

    function select(label, options, value, change) {
      var box = element("label", {}, label + " ");
      var list = element("select");
      options.forEach(function (option) {
        var made = element("option", {value: option[0]}, option[1]);
        made.selected = option[0] === value;
        list.appendChild(made);
      });
      list.addEventListener("change", function () { change(list.value); });
      box.appendChild(list);
      return box;
    }
    function numeric(label, value, change) {
      var box = element("label", {}, label + " ");
      var input = element("input", {type: "number", step: "any"});
      input.value = known(value) ? value : "";
      input.addEventListener("change", function () {
        var number = input.value === "" ? null : Number(input.value);
        if (number === null || isFinite(number)) { change(number); }
      });
      box.appendChild(input);
      return box;
    }

    function controls() {
      var bar = element("div", {"class": "controls", role: "group", "aria-label": "Distributions"});
      var columns = Object.keys(kind.columns).map(function (name) { return [name, name]; });
      bar.appendChild(select("Colour by", [["", "suggestion"]].concat(columns), state.colour,
        function (value) { state.colour = value; paint(); }));
      bar.appendChild(select("Split by", [["", "nothing"]].concat(columns), state.split,
        function (value) { state.split = value; scopes(); paint(); }));
      bar.appendChild(select("Show", [["key", "main metrics"], ["directed", "all with a direction"],
        ["all", "all metrics"]], state.show, function (value) { state.show = value; layOut(); }));
      var by = columns.concat([["", "all together"]]);
      bar.appendChild(select("Outliers within", by, rules.outliers.by[0] || "",
        function (value) { rules.outliers.by = value ? [value] : []; changed(); }));
      bar.appendChild(numeric("beyond (robust deviations)", rules.outliers.k, function (value) {
        rules.outliers.on = value !== null && value > 0;
        if (rules.outliers.on) { rules.outliers.k = value; }
        changed();
      }));
      if (kind.motion) {
        var usual = rules.motion ? rules.motion.fd_threshold : "";
        var options = kind.motion.grid.map(function (value) { return [String(value), value + " mm"]; });
        options.unshift(["", "as measured"]);
        bar.appendChild(select("Volumes with motion above", options, String(usual),
          function (value) {
            if (value) { rules.motion = {fd_threshold: Number(value)}; }
            else { delete rules.motion; }
            changed();
          }));
      }
      bar.appendChild(element("span", {"class": "scope"}));
      var save = element("button", {type: "button"}, "Download thresholds (TOML)");
      save.addEventListener("click", function () { download("thresholds.toml", judging.toml()); });
      bar.appendChild(save);
      return bar;
    }

    // Limits are for all scans, or for those with one value in the column that splits.
    function scopes() {
      var slot = place.querySelector(".scope");
      slot.textContent = "";
      state.scope = "";
      if (state.split) {
        var levels = kind.columns[state.split].levels.map(function (level, n) {
          return [String(n), level || "(none)"];
        });
        slot.appendChild(select("Limits for", [["", "all scans"]].concat(levels), "",
          function (value) { state.scope = value; layOut(); }));
      }
      layOut();
    }
    function limitOf(metric, make) {
      var value = state.scope === "" ? "" : kind.columns[state.split].levels[Number(state.scope)];
      var column = value === "" ? "" : state.split;
      var found = rules.limit.find(function (limit) {
        return limit.modality === kind.modality && limit.metric === metric &&
          (limit.column || "") === column && (limit.value || "") === value;
      });
      if (!found && make) {
        found = {modality: kind.modality, metric: metric, then: "exclude"};
        if (column) { found.column = column; found.value = value; }
        rules.limit.push(found);
      }
      return found;
    }
    function setLimit(metric, key, value) {
      var limit = limitOf(metric, true);
      if (value === null) { delete limit[key]; } else { limit[key] = value; }
      if (!known(limit.min) && !known(limit.max)) {
        rules.limit.splice(rules.limit.indexOf(limit), 1);
      }
      changed();
    }

    function layOut() {
      observer.disconnect();
      grid.textContent = "";
      plots = [];
      var names = Object.keys(kind.metrics);
      if (state.show === "key") { names = kind.key; }
      if (state.show === "directed") {
        names = names.filter(function (name) {
          return WORST.indexOf(kind.metrics[name].better) >= 0;
        });
      }
      names.forEach(function (metric) {
        var about = kind.metrics[metric];
        var box = element("div", {"class": "plot", "data-plot": plots.length});
        var head = element("h3", {title: about.meaning});
        head.appendChild(document.createTextNode(about.title + " "));
        head.appendChild(element("code", {}, metric));
        box.appendChild(head);
        var better = {higher: "Higher is better.", lower: "Lower is better.", near: "Near the others is better."};
        box.appendChild(element("p", {"class": "soft"}, (better[about.better] || "\u00a0") +
          (about.unit ? " Unit: " + about.unit + "." : "")));
        var picture = element("div", {"class": "swarm"});
        box.appendChild(picture);
        var readout = element("p", {"class": "readout", "aria-live": "polite"}, "\u00a0");
        box.appendChild(readout);
        var limit = limitOf(metric, false) || {};
        var edges = element("div", {"class": "controls limits", role: "group", "aria-label": "Limits of " + metric});
        edges.appendChild(numeric("min", limit.min, function (v) { setLimit(metric, "min", v); }));
        edges.appendChild(numeric("max", limit.max, function (v) { setLimit(metric, "max", v); }));
        edges.appendChild(select("then", [["exclude", "exclude"], ["look", "look"]],
          limit.then || "exclude", function (value) {
            var there = limitOf(metric, false);
            if (there) { there.then = value; changed(); }
          }));
        box.appendChild(edges);
        grid.appendChild(box);
        plots.push({metric: metric, picture: picture, readout: readout, stale: true, visible: false});
        listen(plots[plots.length - 1]);
      });
      Array.from(grid.children).forEach(function (box) { observer.observe(box); });
    }

    // Point at, or walk with the arrow keys through, the scans of a plot.
    function listen(plot) {
      function tell(link) {
        if (link) { plot.readout.textContent = link.getAttribute("aria-label"); }
      }
      plot.picture.addEventListener("mouseover", function (event) { tell(event.target.closest("a")); });
      plot.picture.addEventListener("focusin", function (event) { tell(event.target.closest("a")); });
      plot.picture.addEventListener("keydown", function (event) {
        var links = Array.from(plot.picture.querySelectorAll("a"));
        var at = links.indexOf(event.target.closest("a"));
        var step = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1,
          PageUp: 20, PageDown: -20, Home: -links.length, End: links.length}[event.key];
        if (at < 0 || !step) { return; }
        event.preventDefault();
        var next = links[Math.min(Math.max(at + step, 0), links.length - 1)];
        links[at].setAttribute("tabindex", "-1");
        next.setAttribute("tabindex", "0");
        next.focus();
      });
    }

    function paint() {
      var column = kind.columns[state.colour];
      legend.textContent = "";
      if (column) {
        var sizes = column.levels.map(function () { return 0; });
        column.codes.forEach(function (code) { sizes[code] += 1; });
        var order = column.levels.map(function (level, n) { return n; });
        order.sort(function (a, b) { return sizes[b] - sizes[a]; });
        var shade = {};
        order.forEach(function (n, rank) { shade[n] = rank < COLOURS.length ? COLOURS[rank] : "#888888"; });
        order.slice(0, COLOURS.length + 1).forEach(function (n, rank) {
          var other = rank === COLOURS.length;
          var key = element("span", {"class": "key"});
          var dot = element("i");
          dot.style.background = other ? "#888888" : shade[n];
          key.appendChild(dot);
          key.appendChild(document.createTextNode(other ? "others" : (column.levels[n] || "(none)") + " (" + sizes[n] + ")"));
          legend.appendChild(key);
        });
        hue = column.codes.map(function (code) { return shade[code]; });
      } else {
        hue = verdicts.map(function (verdict) { return "var(--of-" + verdict.final + ")"; });
        LEVELS.forEach(function (level) {
          var key = element("span", {"class": "key"});
          var dot = element("i");
          dot.style.background = "var(--of-" + level + ")";
          key.appendChild(dot);
          key.appendChild(document.createTextNode(level));
          legend.appendChild(key);
        });
      }
      var split = kind.columns[state.split];
      lanes = split ? split.levels : [""];
      plots.forEach(function (plot) {
        plot.stale = true;
        if (plot.visible) { draw(plot); }
      });
    }

    function draw(plot) {
      plot.stale = false;
      var metric = plot.metric, all = values(kind, metric);
      var split = kind.columns[state.split];
      var points = [];
      all.forEach(function (value, n) { if (known(value)) { points.push(n); } });
      var compared = kind.reference[metric];
      var low = Infinity, high = -Infinity;
      points.forEach(function (n) { low = Math.min(low, all[n]); high = Math.max(high, all[n]); });
      if (compared) { low = Math.min(low, compared.low); high = Math.max(high, compared.high); }
      var span = high - low || 1;
      function x(value) { return LEFT + (value - low) / span * (WIDTH - LEFT - RIGHT); }
      var room = lanes.length > 1 ? 46 : 78, top = 6;
      var height = top + room * lanes.length + 22;
      var out = ["<svg class=\"strip\" viewBox=\"0 0 " + WIDTH + " " + height + "\" role=\"group\" aria-label=\"" +
        escaped(metric + ": " + points.length + " values" + (points.length ? " from " + short(low) + " to " + short(high) : "") +
        "; arrow keys go from scan to scan") + "\">"];
      if (compared) {
        var most = Math.max.apply(null, compared.counts), bin = (compared.high - compared.low) / compared.counts.length;
        var base = top + room * lanes.length;
        out.push("<path class=\"reference\" d=\"M" + x(compared.low).toFixed(1) + " " + base);
        compared.counts.forEach(function (count, n) {
          var y = (base - count / most * (base - top)).toFixed(1);
          out.push("L" + x(compared.low + n * bin).toFixed(1) + " " + y + "H" + x(compared.low + (n + 1) * bin).toFixed(1));
        });
        out.push("V" + base + "Z\"/>");
      }
      points.sort(function (a, b) { return all[a] - all[b] || a - b; });
      var sorted = [], front = [];
      lanes.forEach(function (level, lane) {
        var middle = top + room * (lane + .5);
        var inside = split ? points.filter(function (n) { return split.codes[n] === lane; }) : points;
        out.push("<path class=\"axis\" d=\"M" + LEFT + " " + middle + "H" + (WIDTH - RIGHT) + "\"/>");
        if (inside.length) {
          var centre = x(median(inside.map(function (n) { return all[n]; }))).toFixed(1);
          front.push("<path class=\"median\" d=\"M" + centre + " " + (middle - room / 2 + 3) + "V" + (middle + room / 2 - 3) + "\"/>");
        }
        rules.limit.forEach(function (limit) {
          if (limit.modality !== kind.modality || limit.metric !== metric) { return; }
          if (limit.column && !(split && limit.column === state.split && limit.value === level)) { return; }
          [limit.min, limit.max].forEach(function (edge) {
            if (known(edge) && edge >= low && edge <= high) {
              front.push("<path class=\"limit\" d=\"M" + x(edge).toFixed(1) + " " + (middle - room / 2) + "V" + (middle + room / 2) + "\"/>");
            }
          });
        });
        var bins = {};
        inside.forEach(function (n) {
          var at = Math.round(x(all[n]) / 4);
          bins[at] = (bins[at] || 0) + 1;
        });
        var most = Math.max.apply(null, [1].concat(Object.keys(bins).map(function (k) { return bins[k]; })));
        var step = Math.min(6, (room - 8) / most), radius = most > 24 ? 2.2 : 3.6;
        var used = {};
        inside.forEach(function (n) {
          var at = Math.round(x(all[n]) / 4), k = used[at] = (used[at] || 0) + 1;
          var y = middle + (k >> 1) * step * (k % 2 ? -1 : 1);
          sorted.push({n: n, x: x(all[n]), y: y, radius: radius});
        });
        if (split) {
          out.push("<text x=\"" + LEFT + "\" y=\"" + (middle - room / 2 + 11) + "\" class=\"lane\">" + escaped(level || "(none)") + " (" + inside.length + ")</text>");
        }
      });
      sorted.forEach(function (point, place) {
        var n = point.n, mark = "";
        verdicts[n].findings.forEach(function (found) {
          if (found.metric === metric) { mark = mark === "limit" ? mark : found.kind; }
        });
        var words = kind.names[n] + ": " + short(all[n]) +
          (mark === "limit" ? ", beyond a limit" : mark ? ", outlier" : "") +
          (state.colour ? ", " + (text(kind, state.colour, n) || "none") : "") + ", " + verdicts[n].final;
        out.push("<a" + (kind.links[n] ? " href=\"" + escaped(kind.links[n]) + "\"" : "") +
          " tabindex=\"" + (place ? -1 : 0) + "\" aria-label=\"" + escaped(words) + "\"><circle cx=\"" +
          point.x.toFixed(1) + "\" cy=\"" + point.y.toFixed(1) + "\" r=\"" + (mark ? point.radius + 1.4 : point.radius) +
          "\" style=\"fill:" + hue[n] + "\"" + (mark ? " class=\"" + mark + "\"" : "") + "/></a>");
      });
      out = out.concat(front);
      out.push("<text x=\"" + LEFT + "\" y=\"" + (height - 5) + "\">" + (points.length ? short(low) : "") +
        "</text><text x=\"" + (WIDTH - RIGHT) + "\" y=\"" + (height - 5) + "\" text-anchor=\"end\">" +
        (points.length ? short(high) : "no values") + "</text></svg>");
      plot.picture.innerHTML = out.join("");
    }

    function fill() {
      var chosen = [];
      verdicts.forEach(function (verdict, n) {
        if (state.level ? verdict.final !== state.level : verdict.final === "accept" && !state.word) { return; }
        if (state.word && kind.names[n].toLowerCase().indexOf(state.word) < 0) { return; }
        chosen.push(n);
      });
      chosen.sort(function (a, b) {
        return LEVELS.indexOf(verdicts[b].final) - LEVELS.indexOf(verdicts[a].final) || a - b;
      });
      var shown = state.all ? chosen : chosen.slice(0, ROWS);
      body.innerHTML = shown.map(function (n) {
        var verdict = verdicts[n], name = escaped(kind.names[n]);
        return "<tr><td class=\"name\">" + (kind.links[n] ? "<a href=\"" + escaped(kind.links[n]) + "\">" + name + "</a>" : name) +
          "</td><td><span class=\"tag of-" + verdict.final + "\">" + verdict.final + "</span>" +
          (verdict.final === verdict.suggestion ? "" : " <span class=\"soft\">(suggested: " + verdict.suggestion + ")</span>") +
          "</td><td class=\"number\">" + (known(kind.ratings[n]) ? short(kind.ratings[n]) : "\u2013") +
          "</td><td class=\"number\">" + (known(kind.probabilities[n]) ? kind.probabilities[n].toFixed(2) : "\u2013") +
          "</td><td class=\"meaning\">" + verdict.reasons.map(escaped).join("; ") + "</td></tr>";
      }).join("");
      more.textContent = "";
      if (!chosen.length) { more.textContent = "None."; }
      if (shown.length < chosen.length) {
        var b = element("button", {type: "button"}, "Show all " + chosen.length);
        b.addEventListener("click", function () { state.all = true; fill(); });
        more.appendChild(b);
      }
    }

    function table() {
      var bar = element("div", {"class": "controls", role: "group", "aria-label": "Scans"});
      [["", "Not accepted"], ["exclude", "Exclude"], ["look", "Look"], ["accept", "Accept"]].forEach(function (choice) {
        var b = element("button", {type: "button", "aria-pressed": String(choice[0] === "")}, choice[1]);
        b.addEventListener("click", function () {
          state.level = choice[0];
          state.all = false;
          Array.from(bar.querySelectorAll("button")).forEach(function (other) {
            other.setAttribute("aria-pressed", String(other === b));
          });
          fill();
        });
        bar.appendChild(b);
      });
      var box = element("label", {}, "Find ");
      var input = element("input", {type: "search"});
      input.addEventListener("input", function () {
        state.word = input.value.trim().toLowerCase();
        fill();
      });
      box.appendChild(input);
      bar.appendChild(box);
      var scroll = element("div", {"class": "scroll"});
      var made = element("table");
      made.innerHTML = "<caption>Suggestions by limits, outliers and model; where people rated, their median decides.</caption>" +
        "<thead><tr><th scope=\"col\">Scan</th><th scope=\"col\">Verdict</th><th scope=\"col\" class=\"number\">Rating</th>" +
        "<th scope=\"col\" class=\"number\">Model</th><th scope=\"col\">Reasons</th></tr></thead>";
      made.appendChild(body);
      scroll.appendChild(made);
      place.appendChild(bar);
      place.appendChild(scroll);
      place.appendChild(more);
    }

    this.judge = function () {
      verdicts = judging.judge(kind);
      var number = LEVELS.map(function (level) {
        return verdicts.filter(function (verdict) { return verdict.final === level; }).length + " " + level;
      });
      counts.textContent = kind.names.length + " scans: " + number.join(", ") + "." +
        (judging.alone(kind) ? " " + judging.alone(kind) + " have fewer than " + rules.outliers.fewest +
          " scans alike, so that limits alone judge them." : "");
      paint();
      fill();
    };
    this.verdicts = function () { return verdicts; };

    place.appendChild(counts);
    place.appendChild(controls());
    if (Object.keys(kind.reference).length) {
      place.appendChild(element("p", {"class": "soft"}, "Grey: " + kind.reference_n + " records of " + data.source +
        (kind.reference_match.length ? ", with the same " + kind.reference_match.join(", ") : "") + "."));
    }
    place.appendChild(legend);
    place.appendChild(grid);
    table();
    layOut();
    this.judge();
  }

  var sections = data.modalities.map(function (kind) {
    return new Section(kind, document.getElementById("of-" + kind.modality));
  });
  function changed() { sections.forEach(function (section) { section.judge(); }); }
})();
