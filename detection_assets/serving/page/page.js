"use strict";
// Scores once at a low threshold and filters while the slider moves: no request for each step of the slider.
const LOWEST = 0.05;
const MARK = { key: "detection-key", line: 2, font: 12 };
const $ = (id) => document.getElementById(id);
const state = { file: null, image: null, answer: null, hovered: null, turn: 0 };

function takeKeyFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!given) return;
  sessionStorage.setItem(MARK.key, given);
  history.replaceState(null, "", location.pathname + location.search);
}

function say(problem) {
  $("problem").hidden = !problem;
  $("problem").textContent = problem || "";
}

function askForKey(reason) {
  $("keyform").hidden = false;
  $("key").focus();
  if (reason) say(reason);
}

async function checkReadiness() {
  const pill = $("readiness");
  try {
    const ready = (await fetch("/readyz")).ok;
    pill.textContent = ready ? "ready" : "no model loaded";
    pill.className = ready ? "pill good" : "pill bad";
  } catch {
    pill.textContent = "not reachable";
    pill.className = "pill bad";
  }
}

async function open(file) {
  if (!file) return;
  const turn = ++state.turn;
  say("");
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    say(`This browser cannot show ${file.name || "that"}; choose a JPEG, PNG, WebP or BMP picture.`);
    return;
  }
  if (turn !== state.turn) return;
  Object.assign(state, { file, image, answer: null, hovered: null });
  $("invitation").hidden = true;
  $("canvas").hidden = false;
  $("stage").classList.add("filled");
  $("another").textContent = "Choose another picture";
  show();
  await score();
}

async function score() {
  const key = sessionStorage.getItem(MARK.key);
  if (!key) return askForKey("");
  const turn = state.turn;
  $("busy").hidden = false;
  try {
    const response = await fetch(`/score?confidence=${LOWEST}`, {
      method: "POST",
      headers: { "X-API-Key": key, "Content-Type": state.file.type || "application/octet-stream" },
      body: state.file,
    });
    const answer = await response.json();
    if (turn !== state.turn) return;
    if (response.status === 401) {
      sessionStorage.removeItem(MARK.key);
      askForKey(answer.error);
    } else if (!response.ok) {
      say(answer.error);
    } else {
      say("");
      state.answer = answer;
    }
  } catch (error) {
    say(`The endpoint cannot be reached (${error.message}).`);
  } finally {
    if (turn === state.turn) {
      $("busy").hidden = true;
      show();
    }
    checkReadiness();
  }
}

// Hues a golden angle apart: neighbours in the class list never look alike.
const colour = (classId, alpha = 1) => `hsl(${(210 + classId * 137.5) % 360} 75% 46% / ${alpha})`;

function visible() {
  const least = Number($("confidence").value);
  return state.answer ? state.answer.boxes.filter((box) => box.confidence >= least) : [];
}

function show() {
  const boxes = visible();
  draw(boxes);
  list(boxes);
  const { answer } = state;
  document.body.dataset.boxes = answer ? String(boxes.length) : "";
  $("facts").hidden = !answer;
  if (!answer) return;
  $("detector").textContent = answer.detector;
  document.title = `${answer.detector} – detection endpoint`;
  $("version").textContent = answer.model_version;
  $("slot").textContent = answer.slot;
  $("size").textContent = `${answer.width} × ${answer.height}`;
  $("latency").textContent = `${answer.latency_ms.toFixed(1)} ms`;
  $("request").textContent = $("request").title = answer.request_id;
}

function draw(boxes) {
  const { image } = state;
  if (!image) return;
  const canvas = $("canvas");
  // Small pictures are drawn enlarged, so that lines and labels stay sharp on them.
  const scale = Math.max(1, Math.min(1400 / image.width, 1000 / image.height));
  canvas.width = Math.round(image.width * scale);
  canvas.height = Math.round(image.height * scale);
  // Lines and letters keep their size on the screen, however small the picture is shown.
  const unit = canvas.width / (canvas.clientWidth || canvas.width);
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  const last = [...boxes].reverse();
  for (const box of last) outline(pen, box, scale, unit);
  for (const box of last) label(pen, box, scale, unit);
}

const faded = (box) => (state.hovered && state.hovered !== box ? 0.2 : 1);

function outline(pen, box, scale, unit) {
  const place = [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1].map((side) => side * scale);
  const chosen = state.hovered === box;
  pen.globalAlpha = faded(box);
  pen.lineWidth = MARK.line * unit * (chosen ? 1.6 : 1);
  pen.strokeStyle = colour(box.class_id);
  pen.fillStyle = colour(box.class_id, chosen ? 0.22 : 0.08);
  pen.fillRect(...place);
  pen.strokeRect(...place);
  pen.globalAlpha = 1;
}

function label(pen, box, scale, unit) {
  const text = `${box.class} ${Math.round(box.confidence * 100)}%`;
  pen.font = `600 ${MARK.font * unit}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  const tall = (MARK.font + 7) * unit;
  const wide = pen.measureText(text).width + 10 * unit;
  const y = box.y1 * scale;
  const top = y >= tall ? y - tall : y;
  const left = Math.max(0, Math.min(box.x1 * scale - (MARK.line * unit) / 2, pen.canvas.width - wide));
  pen.globalAlpha = faded(box);
  pen.fillStyle = colour(box.class_id);
  pen.fillRect(left, top, wide, tall);
  pen.fillStyle = "#fff";
  pen.fillText(text, left + 5 * unit, top + tall / 2 + unit * 0.5);
  pen.globalAlpha = 1;
}

function list(boxes) {
  $("count").textContent = state.answer ? boxes.length : "–";
  $("nothing").hidden = boxes.length > 0;
  $("nothing").textContent = state.answer
    ? "Nothing at this confidence. Move the slider to the left to see less certain boxes."
    : "Boxes appear here once a picture was scored.";
  $("boxes").replaceChildren(
    ...boxes.map((box) => {
      const row = document.createElement("li");
      const swatch = document.createElement("i");
      swatch.style.background = colour(box.class_id);
      const name = document.createElement("span");
      name.textContent = name.title = box.class;
      const sure = document.createElement("span");
      sure.className = "sure";
      sure.textContent = `${(box.confidence * 100).toFixed(1)}%`;
      row.append(swatch, name, sure);
      row.addEventListener("mouseenter", () => hover(box));
      row.addEventListener("mouseleave", () => hover(null));
      return row;
    }),
  );
}

function hover(box) {
  state.hovered = box;
  draw(visible());
}

function listen() {
  const stage = $("stage");
  const choose = () => $("file").click();
  $("choose").addEventListener("click", choose);
  $("another").addEventListener("click", choose);
  stage.addEventListener("keydown", (event) => event.key === "Enter" && event.target === stage && choose());
  $("file").addEventListener("change", (event) => {
    open(event.target.files[0]);
    event.target.value = "";
  });
  // The whole window takes a drop: a picture let go beside the frame must not navigate away.
  window.addEventListener("dragover", (event) => {
    event.preventDefault();
    stage.classList.add("over");
  });
  window.addEventListener("dragleave", (event) => event.relatedTarget || stage.classList.remove("over"));
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("over");
    open(event.dataTransfer.files[0]);
  });
  window.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (file) open(file);
  });
  $("confidence").addEventListener("input", (event) => {
    $("threshold").textContent = Number(event.target.value).toFixed(2);
    show();
  });
  $("keyform").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = $("key").value.trim();
    if (!key) return;
    sessionStorage.setItem(MARK.key, key);
    $("key").value = "";
    $("keyform").hidden = true;
    say("");
    if (state.file) score();
  });
  window.addEventListener("resize", () => draw(visible()));
  window.addEventListener("hashchange", takeKeyFromAddress);
}

takeKeyFromAddress();
listen();
checkReadiness();
setInterval(checkReadiness, 5000);
if (!sessionStorage.getItem(MARK.key)) askForKey("");
