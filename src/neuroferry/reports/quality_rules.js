"use strict";
// The rules of neuroferry/judgement/rules.py and verdicts.py, for what is changed in the page.
// Takes the rules in the form of their file; the page may change them afterwards.
window.neuroferryRules = function (rules) {
  var LEVELS = ["accept", "look", "exclude"];
  var DIRECTED = ["higher", "lower", "near"];

  function short(value, digits) { return String(Number(value.toPrecision(digits || 4))); }
  function median(values) {
    var sorted = values.slice().sort(function (a, b) { return a - b; });
    var half = sorted.length >> 1;
    return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  }
  function known(value) { return value !== null && value !== undefined; }
  function text(kind, column, n) {
    var found = kind.columns[column];
    return found ? found.levels[found.codes[n]] : "";
  }

  function values(kind, metric) {
    var motion = kind.motion;
    var at = motion && known(rules.motion) ? motion.grid.indexOf(rules.motion.fd_threshold) : -1;
    if (at < 0 || (metric !== "fd_num" && metric !== "fd_perc")) {
      return kind.metrics[metric].values;
    }
    return kind.metrics[metric].values.map(function (value, n) {
      if (!motion.volumes[n]) { return value; }
      var count = motion.counts[n][at];
      return metric === "fd_num" ? count : 100 * count / motion.volumes[n];
    });
  }

  function groups(kind) {
    var found = {};
    kind.names.forEach(function (name, n) {
      var key = rules.outliers.by.map(function (column) { return text(kind, column, n); });
      (found[JSON.stringify(key)] = found[JSON.stringify(key)] || []).push(n);
    });
    return Object.keys(found).map(function (key) { return found[key]; });
  }

  // Scans with too few alike to find outliers among them.
  function alone(kind) {
    var how = rules.outliers;
    return (how.on ? groups(kind) : []).reduce(function (sum, group) {
      return sum + (group.length < how.fewest ? group.length : 0);
    }, 0);
  }

  function isWorse(z, better, k) {
    if (better === "lower") { return z > k; }
    return better === "higher" ? z < -k : Math.abs(z) > k;
  }

  // Findings of each scan: metric, kind, level, reason.
  function findings(kind) {
    var found = kind.names.map(function () { return []; });
    var limits = rules.limit.filter(function (limit) {
      return limit.modality === kind.modality && kind.metrics[limit.metric];
    });
    var of = {};
    limits.forEach(function (limit) { of[limit.metric] = values(kind, limit.metric); });
    kind.names.forEach(function (name, n) {
      var fitting = limits.filter(function (limit) {
        return known(of[limit.metric][n]) &&
          (!limit.column || text(kind, limit.column, n) === limit.value);
      });
      fitting.forEach(function (limit) {
        var narrower = fitting.some(function (other) {
          return other.column && other.metric === limit.metric;
        });
        if (!limit.column && narrower) { return; }
        var value = of[limit.metric][n], words = "";
        if (known(limit.max) && value > limit.max) { words = "above " + short(limit.max); }
        else if (known(limit.min) && value < limit.min) { words = "below " + short(limit.min); }
        if (words) {
          found[n].push({metric: limit.metric, kind: "limit", level: limit.then,
            reason: limit.metric + " " + short(value) + " is " + words});
        }
      });
    });
    var how = rules.outliers;
    if (!how.on) { return found; }
    var names = how.metrics.length ? how.metrics : kind.order;
    groups(kind).forEach(function (group) {
      names.forEach(function (metric) {
        var about = kind.metrics[metric];
        if (!about || DIRECTED.indexOf(about.better) < 0) { return; }
        var all = values(kind, metric);
        var having = group.filter(function (n) { return known(all[n]); });
        if (having.length < how.fewest) { return; }
        var picked = having.map(function (n) { return all[n]; });
        var middle = median(picked);
        var scale = 1.4826 * median(picked.map(function (v) { return Math.abs(v - middle); }));
        if (!(scale > 0)) { return; }
        having.forEach(function (n) {
          var z = (all[n] - middle) / scale;
          if (isWorse(z, about.better, how.k)) {
            found[n].push({metric: metric, kind: "outlier", level: "look",
              reason: metric + " " + short(all[n]) + " lies " + short(Math.abs(z), 2) +
                " robust deviations " + (z > 0 ? "above" : "below") + " the median " +
                short(middle) + " of " + picked.length + " scans alike"});
          }
        });
      });
    });
    return found;
  }

  // The verdict of each scan: suggestion, final, reasons, findings.
  function judge(kind) {
    return findings(kind).map(function (found, n) {
      var levels = found.map(function (one) { return one.level; });
      var reasons = found.map(function (one) { return one.reason; });
      var chance = kind.probabilities[n];
      if (known(chance) && chance >= 0.5) {
        levels.push("look");
        reasons.push("the model gives " + short(chance, 2) + " for its exclusion");
      }
      var suggestion = LEVELS[Math.max.apply(null, [0].concat(levels.map(function (level) {
        return LEVELS.indexOf(level);
      })))];
      var rating = kind.ratings[n], final = suggestion;
      if (known(rating)) {
        final = rating < rules.ratings.exclude_below ? "exclude"
          : rating >= rules.ratings.accept_from ? "accept" : "look";
        reasons.push("rated " + short(rating) + " by " +
          (kind.raters[n] === 1 ? "1 person" : kind.raters[n] + " people"));
      }
      return {suggestion: suggestion, final: final, reasons: reasons, findings: found};
    });
  }

  function toml() {
    function quoted(value) { return JSON.stringify(String(value)).replace(/\u007f/g, "\\u007f"); }
    function list(items) { return "[" + items.map(quoted).join(", ") + "]"; }
    function number(value) {
      var plain = String(value);
      return /[.e]/.test(plain) ? plain : plain + ".0";
    }
    var lines = ["[outliers]", "on = " + rules.outliers.on, "k = " + number(rules.outliers.k),
      "fewest = " + rules.outliers.fewest, "by = " + list(rules.outliers.by),
      "metrics = " + list(rules.outliers.metrics), "", "[ratings]",
      "exclude_below = " + number(rules.ratings.exclude_below),
      "accept_from = " + number(rules.ratings.accept_from)];
    if (rules.motion) {
      lines.push("", "[motion]", "fd_threshold = " + number(rules.motion.fd_threshold));
    }
    var baseline = rules.drift.baseline;
    lines.push("", "[drift]", "baseline = " + (typeof baseline === "number" ? baseline : quoted(baseline)),
      "column = " + quoted(rules.drift.column));
    rules.limit.forEach(function (limit) {
      lines.push("", "[[limit]]", "modality = " + quoted(limit.modality),
        "metric = " + quoted(limit.metric));
      if (known(limit.min)) { lines.push("min = " + number(limit.min)); }
      if (known(limit.max)) { lines.push("max = " + number(limit.max)); }
      if (limit.column) {
        lines.push("column = " + quoted(limit.column), "value = " + quoted(limit.value));
      }
      lines.push("then = " + quoted(limit.then));
    });
    return lines.join("\n") + "\n";
  }

  return {judge: judge, alone: alone, values: values, text: text, toml: toml,
    short: short, median: median, known: known};
};
