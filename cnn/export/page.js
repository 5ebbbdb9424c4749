// The page: where the picture comes from, and what is shown of what the network computes.

const at = id => document.getElementById(id);
const model = JSON.parse(at("model").textContent), run = network(model, at("weights").textContent);
const [channels, height, width] = model.shape, grey = channels === 1;
const board = at("board"), pen = board.getContext("2d", {willReadFrequently: true});
const seen = at("seen"), glass = seen.getContext("2d", {willReadFrequently: true});
const rows = [], maps = [], MOST_CLASSES = 10, MOST_CHANNELS = 64;
let source = "draw", down = null, cursor = [224, 224], stream = null, waiting = 0, took = 0, spoken = 0, inked = false;

[seen.width, seen.height] = [width, height];
seen.style.height = `${6 * height / width}rem`;
board.style.aspectRatio = `${width} / ${height}`;
board.height = Math.round(board.width * height / width);

function make(tag, words, parent, properties) {
  const element = Object.assign(document.createElement(tag), properties);
  if (words !== undefined) element.textContent = words;
  parent.append(element);
  return element;
}

function percent(p) {
  return `${(100 * p).toFixed(p > 0.0995 && p < 0.9995 ? 0 : 1)} %`;
}

// ------------------------------------------------------------ from the board to the network

// As MNIST's digits were made: the drawing fits 20 of 28 pixels, its centre of mass lies in the middle.
function centred() {
  const {data} = pen.getImageData(0, 0, board.width, board.height);
  let left = board.width, right = -1, top = board.height, bottom = -1, mass = 0, x = 0, y = 0;
  for (let i = 0; i < board.height; i += 2) for (let j = 0; j < board.width; j += 2) {
    const p = 4 * (i * board.width + j), ink = data[p] + data[p + 1] + data[p + 2];
    if (ink > 60) {
      [left, right, top, bottom] = [Math.min(left, j), Math.max(right, j + 2), Math.min(top, i), Math.max(bottom, i + 2)];
      [mass, x, y] = [mass + ink, x + ink * j, y + ink * i];
    }
  }
  if (!mass) return [0, 0, width / board.width, height / board.height];
  const scale = Math.min(width, height) * 20 / 28 / Math.max(right - left, bottom - top, 40);
  const inside = (n, first, last, side) => Math.max(-first * scale, Math.min(side - last * scale, side / 2 - n / mass * scale));
  return [inside(x, left, right, width), inside(y, top, bottom, height), scale, scale];
}

function look() {
  const [x, y, across, along] = source === "draw" && grey && at("centre").checked ? centred()
    : [0, 0, width / board.width, height / board.height];
  glass.setTransform(1, 0, 0, 1, 0, 0);
  glass.fillStyle = "#000";
  glass.fillRect(0, 0, width, height);
  glass.imageSmoothingQuality = "high";
  // in halves: smoothing looks at a few pixels only
  let image = board, [wide, tall] = [board.width, board.height];
  while (wide * across > 0 && wide / 2 >= board.width * across) {
    const half = document.createElement("canvas");
    [half.width, half.height] = [Math.ceil(wide / 2), Math.ceil(tall / 2)];
    half.getContext("2d").drawImage(image, 0, 0, half.width, half.height);
    [image, wide, tall] = [half, half.width, half.height];
  }
  glass.drawImage(image, x, y, board.width * across, board.height * along);
  if (source !== "draw" && at("invert").checked) {
    const pixels = glass.getImageData(0, 0, width, height);
    pixels.data.forEach((value, i) => { if (i % 4 !== 3) pixels.data[i] = 255 - value; });
    glass.putImageData(pixels, 0, 0);
  }
  return glass.getImageData(0, 0, width, height).data;
}

function compute() {
  const start = performance.now(), values = run(normalised(model, look()));
  took = performance.now() - start;
  show(values);
}

// At most once a frame; where the network is slow, when the hand rests.
function changed() {
  if (waiting) { if (took < 50) return; clearTimeout(waiting); }
  waiting = setTimeout(() => { waiting = 0; compute(); }, took < 50 ? 16 : 200);
}

// ------------------------------------------------------------ what is shown

function show(values) {
  const found = probabilities(model, values[values.length - 1].data);
  const order = Array.from(found.keys()).sort((a, b) => found[b] - found[a]);
  const shown = model.classes.length > MOST_CLASSES ? order.slice(0, MOST_CLASSES) : [...found.keys()];
  rows.forEach((row, i) => {
    const k = shown[i];
    row.item.className = k === order[0] && inked ? "first" : "";
    row.name.textContent = model.classes[k];
    row.share.textContent = inked ? percent(found[k]) : "";
    row.bar.style.transform = `scaleX(${inked ? found[k] : 0})`;
  });
  clearTimeout(spoken);       // a screen reader hears where it has settled
  spoken = setTimeout(() => {
    at("answer").textContent = inked ? `${model.classes[order[0]]}, ${percent(found[order[0]])}` : model.question;
    at("time").textContent = inked ? `${took < 10 ? took.toFixed(1) : took.toFixed(0)} ms in this browser` : "";
  }, source === "camera" ? 0 : 150);
  for (const map of maps) paint(map, values[map.value].data);
}

// Channels side by side, a pixel of a map a pixel of the canvas; of vectors a cell a number.
function paint(map, data) {
  const {context, tall, wide, across, gap, count} = map, image = context.createImageData(map.canvas.width, map.canvas.height);
  let most = 1e-12;
  for (let i = 0; i < count * tall * wide; i++) most = Math.max(most, Math.abs(data[i]));
  for (let c = 0; c < count; c++) {
    const top = Math.floor(c / across) * (tall + gap), left = c % across * (wide + gap);
    for (let i = 0; i < tall; i++) for (let j = 0; j < wide; j++) {
      const value = data[(c * tall + i) * wide + j] / most, light = Math.sqrt(Math.abs(value));
      const to = 4 * ((top + i) * image.width + left + j), colour = value > 0 ? [120, 190, 255] : [255, 150, 60];
      for (let k = 0; k < 3; k++) image.data[to + k] = light * colour[k];
      image.data[to + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}

function prepare() {
  at("about").textContent = model.about;
  for (let i = 0; i < Math.min(model.classes.length, MOST_CLASSES); i++) {
    const item = make("li", undefined, at("classes")), bar = make("i", undefined, item);
    bar.setAttribute("aria-hidden", "true");
    rows.push({item, bar, name: make("span", "", item), share: make("span", "", item)});
  }
  for (const {value, title, shape} of model.shown) {
    const card = make("div", undefined, at("layers"), {className: "card"}), heading = make("h3", `${title} `, card);
    const flat = shape.length === 1, tall = flat ? 1 : shape[1], wide = flat ? 1 : shape[2];
    const count = flat ? Math.min(shape[0], 512) : Math.min(shape[0], MOST_CHANNELS), gap = flat ? 0 : 1;
    make("small", `${shape.join(" × ")}${count < shape[0] ? `, the first ${count}` : ""}`, heading);
    const across = flat ? Math.min(32, count) : Math.max(1, Math.min(count, 8, Math.floor(240 / (wide + 1)) || 1));
    const canvas = make("canvas", undefined, card), lines = Math.ceil(count / across);
    [canvas.width, canvas.height] = [across * (wide + gap) - gap, lines * (tall + gap) - gap];
    canvas.style.width = `${Math.min(20, canvas.width * (flat ? 0.6 : Math.max(0.125, 2.2 / wide)))}rem`;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Output of ${title}`);
    maps.push({value, canvas, context: canvas.getContext("2d"), tall, wide, across, gap, count});
  }
  for (const [i, pixels] of (model.examples || []).entries()) {
    const button = make("button", undefined, at("examples"), {className: "example"}), canvas = make("canvas", undefined, button);
    button.setAttribute("aria-label", `Example ${i + 1}`);
    [canvas.width, canvas.height] = [width, height];
    const bytes = Uint8Array.from(atob(pixels), letter => letter.charCodeAt(0)), plane = width * height;
    const image = new ImageData(width, height);
    for (let p = 0; p < plane; p++) {
      for (let c = 0; c < 3; c++) image.data[4 * p + c] = bytes[grey ? p : c * plane + p];
      image.data[4 * p + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    button.addEventListener("click", () => {
      choose("picture");
      at("invert").checked = false;
      pen.imageSmoothingEnabled = false;
      pen.drawImage(canvas, 0, 0, board.width, board.height);
      pen.imageSmoothingEnabled = true;
      inked = true;
      changed();
    });
  }
  at("tries").hidden = !model.examples;
  at("colours").hidden = grey;
  at("centring").hidden = !grey;
}

// ------------------------------------------------------------ drawing

function clear() {
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, board.width, board.height);
  inked = false;
  changed();
}

function line(from, to) {
  Object.assign(pen, {lineCap: "round", lineJoin: "round", lineWidth: at("width").value, strokeStyle: at("colour").value});
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(to[0] + 0.01, to[1]);
  pen.stroke();
  inked = true;
  changed();
}

function place(event) {
  const box = board.getBoundingClientRect();
  return [(event.clientX - box.left) * board.width / box.width, (event.clientY - box.top) * board.height / box.height];
}

board.addEventListener("pointerdown", event => {
  if (source === "camera") return;
  choose("draw");
  board.setPointerCapture(event.pointerId);
  down = place(event);
  line(down, down);
});
board.addEventListener("pointermove", event => {
  if (down) for (const each of event.getCoalescedEvents ? event.getCoalescedEvents() : [event]) {
    const to = place(each);
    line(down, to);
    down = to;
  }
});
for (const name of ["pointerup", "pointercancel"]) board.addEventListener(name, () => { down = null; });

// By keyboard: arrows move the pen, the space bar sets it down and lifts it, Delete clears.
let lowered = false;
board.addEventListener("keydown", event => {
  const move = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  if (move && source === "draw") {
    const to = cursor.map((n, i) => Math.max(0, Math.min((i ? board.height : board.width), n + 16 * move[i])));
    if (lowered) line(cursor, to);
    cursor = to;
    if (!lowered) at("help").textContent = `Pen at ${Math.round(cursor[0] / board.width * 100)} % from the left, `
      + `${Math.round(cursor[1] / board.height * 100)} % from the top`;
  } else if (event.key === " " && source === "draw") {
    lowered = !lowered;
    if (lowered) line(cursor, cursor);
    at("help").textContent = lowered ? "Pen down" : "Pen up";
  } else if (event.key === "Delete" || event.key === "Backspace") clear();
  else return;
  event.preventDefault();
});

// ------------------------------------------------------------ pictures and the camera

const HELP = {draw: "With the keyboard: arrows move the pen, the space bar sets it down and lifts it, Delete clears.",
  picture: "The middle of the picture is taken, in the network's size.", camera: "Nothing leaves this page."};

function choose(wanted) {
  if (wanted !== "camera" && stream) {
    for (const track of stream.getTracks()) track.stop();
    stream = null;
  }
  if (source !== wanted && wanted === "draw" && source !== "picture") clear();
  source = wanted;
  for (const tab of document.querySelectorAll("[role=tab]")) {
    tab.setAttribute("aria-selected", String(tab.id === wanted));
    tab.tabIndex = tab.id === wanted ? 0 : -1;
  }
  [at("pens").hidden, at("files").hidden, at("lights").hidden] = [wanted !== "draw", wanted !== "picture", wanted === "draw"];
  at("problem").textContent = "";
  at("help").textContent = HELP[wanted];
  board.setAttribute("aria-label", {draw: "Board to draw on", picture: "The picture", camera: "What the camera sees"}[wanted]);
}

// The middle of a picture or a frame, as large as fits.
function cover(image, wide, tall) {
  const scale = Math.max(board.width / wide, board.height / tall);
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, board.width, board.height);
  pen.drawImage(image, (board.width - wide * scale) / 2, (board.height - tall * scale) / 2, wide * scale, tall * scale);
  inked = true;
  changed();
}

async function load(file) {
  if (!file) return;
  choose("picture");
  try {
    const image = await createImageBitmap(file);
    cover(image, image.width, image.height);
  } catch (error) {
    at("problem").textContent = `${file.name || "This"} is not a picture that this browser can read.`;
  }
}

async function film() {
  choose("camera");
  try {
    const started = await navigator.mediaDevices.getUserMedia({video: {facingMode: "environment"}});
    if (source !== "camera") { for (const track of started.getTracks()) track.stop(); return; }
    stream = started;
  } catch (error) {
    at("problem").textContent = "There is no camera that this page may use. Allow it in the browser, or choose a picture.";
    return;
  }
  const video = Object.assign(document.createElement("video"), {srcObject: stream, muted: true, playsInline: true});
  await video.play();
  const step = () => {
    if (source !== "camera" || !stream) return;
    cover(video, video.videoWidth, video.videoHeight);
    setTimeout(step, Math.max(80, 2 * took));
  };
  step();
}

at("draw").addEventListener("click", () => { if (source !== "draw") { choose("draw"); clear(); } });
at("picture").addEventListener("click", () => choose("picture"));
at("camera").addEventListener("click", film);
at("clear").addEventListener("click", clear);
at("file").addEventListener("change", event => { load(event.target.files[0]); event.target.value = ""; });
for (const id of ["centre", "invert"]) at(id).addEventListener("change", changed);
for (const name of ["dragover", "dragleave", "drop"]) document.addEventListener(name, event => {
  event.preventDefault();
  board.classList.toggle("over", name === "dragover");
  if (name === "drop") load(event.dataTransfer.files[0]);
});
document.addEventListener("paste", event => load(event.clipboardData.files[0]));
document.querySelector("[role=tablist]").addEventListener("keydown", event => {
  const tabs = [...document.querySelectorAll("[role=tab]")], move = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (!move) return;
  const next = tabs[(tabs.indexOf(event.target) + move + tabs.length) % tabs.length];
  next.focus();
  next.click();
});

prepare();
choose(grey ? "draw" : "picture");
clear();
