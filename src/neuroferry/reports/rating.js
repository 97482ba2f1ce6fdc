"use strict";
// Ratings of the images of this page. They are kept in this browser, and exported together as one
// JSON file; a server that answers GET ./ratings with {"accepts": "neuroferry-ratings", "version": 1}
// gets each by POST ./ratings, in the same form. See docs/judgement.rst.
(function () {
  var boxes = Array.from(document.querySelectorAll("fieldset.rating"));
  if (!boxes.length) { return; }
  var KEY = "neuroferry-ratings:" + location.pathname;
  var state = {rater: "", ratings: {}};
  var began = {}, served = false, timers = {};

  try {
    var kept = JSON.parse(localStorage.getItem(KEY) || "null");
    if (kept && kept.ratings) { state = kept; }
    if (!state.rater) { state.rater = localStorage.getItem("neuroferry-rater") || ""; }
  } catch (error) { /* a browser without storage: ratings last as long as the page */ }
  function keep() {
    try {
      localStorage.setItem(KEY, JSON.stringify(state));
      localStorage.setItem("neuroferry-rater", state.rater);
    } catch (error) { /* as above */ }
  }

  var bar = document.createElement("div");
  bar.className = "rating-bar controls";
  bar.innerHTML = "<label>Rater <input type=\"text\" name=\"rater\" autocomplete=\"name\"></label>" +
    "<button type=\"button\">Download ratings (JSON)</button>" +
    "<span class=\"soft\" role=\"status\"></span>" +
    "<span class=\"soft\">Keys 1 to 4 rate the image in view.</span>";
  var section = document.getElementById("metrics");
  section.insertBefore(bar, section.querySelector("details.run"));
  var rater = bar.querySelector("input"), status = bar.querySelector("[role=status]");
  rater.value = state.rater;
  rater.addEventListener("input", function () {
    state.rater = rater.value.trim();
    Object.keys(state.ratings).forEach(function (name) { state.ratings[name].rater = state.rater; });
    keep();
    tell();
  });

  function tell(text) {
    var n = Object.keys(state.ratings).length;
    status.textContent = text || n + " of " + boxes.length + " rated" + (n && !state.rater ? "; give your name" : "") + ".";
  }
  function form(ratings) {
    return {"neuroferry-ratings": 1, dataset: boxes[0].dataset.dataset, ratings: ratings};
  }
  function all() {
    return Object.keys(state.ratings).sort().map(function (name) { return state.ratings[name]; });
  }

  bar.querySelector("button").addEventListener("click", function () {
    if (!state.rater) { tell("Give your name first."); rater.focus(); return; }
    if (!all().length) { tell("Nothing is rated yet."); return; }
    var link = document.createElement("a");
    var page = location.pathname.split("/").pop().replace(/\.html$/, "");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(form(all()), null, 2) + "\n"], {type: "application/json"}));
    link.download = "ratings_" + page + "_" + state.rater.replace(/[^A-Za-z0-9]+/g, "-") + ".json";
    document.body.appendChild(link);
    link.click();
    link.remove();
    tell();
  });

  function send(rating) {
    if (!served || !rating.rater) { return; }
    fetch("ratings", {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(form([rating]))})
      .then(function (answer) {
        tell(answer.ok ? "Saved: " + rating.bids_name + "." : "The server refused the rating (" + answer.status + "); download it instead.");
      }, function () { tell("The server cannot be reached; download the ratings instead."); });
  }

  // What one widget says now; null until a rating is chosen.
  function read(box) {
    var chosen = box.querySelector("input[type=radio]:checked");
    if (!chosen) { return null; }
    var name = box.dataset.name;
    var past = state.ratings[name];
    return {
      bids_name: name,
      rating: Number(chosen.value),
      artifacts: Array.from(box.querySelectorAll("input[name=artifact]:checked")).map(function (input) { return input.value; }),
      confidence: Number(box.querySelector("[name=confidence]").value),
      comments: box.querySelector("[name=comments]").value.trim(),
      rater: state.rater,
      time_sec: past ? past.time_sec : Math.round((Date.now() - (began[name] || start)) / 100) / 10,
      rated_at: new Date().toISOString()
    };
  }
  var start = Date.now();
  function changed(box) {
    var rating = read(box);
    if (!rating) { return; }
    state.ratings[rating.bids_name] = rating;
    keep();
    tell();
    clearTimeout(timers[rating.bids_name]);
    timers[rating.bids_name] = setTimeout(function () { send(state.ratings[rating.bids_name]); }, 1000);
  }

  boxes.forEach(function (box) {
    var past = state.ratings[box.dataset.name];
    if (past) {
      box.querySelectorAll("input[type=radio]").forEach(function (input) { input.checked = Number(input.value) === past.rating; });
      box.querySelectorAll("input[name=artifact]").forEach(function (input) { input.checked = past.artifacts.indexOf(input.value) >= 0; });
      box.querySelector("[name=confidence]").value = past.confidence;
      box.querySelector("[name=comments]").value = past.comments;
    }
    box.addEventListener("input", function () { changed(box); });
    box.addEventListener("focusin", function () { point(box); });
  });

  // The image in view is the current one.
  var current = boxes[0];
  function point(box) {
    current = box;
    boxes.forEach(function (other) { other.classList.toggle("current", other === box); });
    if (!began[box.dataset.name]) { began[box.dataset.name] = Date.now(); }
  }
  function look() {
    var middle = window.innerHeight / 2;
    var seen = boxes.find(function (box) {
      var place = box.parentElement.getBoundingClientRect();
      return place.height > 0 && place.top <= middle && place.bottom >= middle;
    });
    if (seen && seen !== current) { point(seen); }
  }
  window.addEventListener("scroll", look, {passive: true});
  document.addEventListener("keydown", function (event) {
    var at = event.target;
    var typing = at.matches && at.matches("textarea, select, input:not([type=radio]):not([type=checkbox])");
    if (typing || event.ctrlKey || event.altKey || event.metaKey || !/^[1-4]$/.test(event.key)) { return; }
    var box = at.closest && at.closest("fieldset.rating");
    if (!box) {
      var place = current.parentElement.getBoundingClientRect();
      if (!current.parentElement.open || place.bottom < 0 || place.top > window.innerHeight) { return; }
      box = current;
    }
    var input = box.querySelector("input[type=radio][value=\"" + event.key + "\"]");
    input.checked = true;
    changed(box);
    tell(box.dataset.name + ": " + event.key + ".");
    event.preventDefault();
  });

  point(current);
  look();
  tell();
  if (location.protocol === "http:" || location.protocol === "https:") {
    fetch("ratings", {headers: {Accept: "application/json"}})
      .then(function (answer) { return answer.ok ? answer.json() : null; })
      .then(function (says) {
        served = Boolean(says && says.accepts === "neuroferry-ratings" && says.version === 1);
        if (served) { tell("Ratings are sent to this server as you make them."); }
      }, function () { /* a server that takes none */ });
  }
})();
