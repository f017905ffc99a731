// Points on a canvas with zoom and pan. Places are looked up in a grid of cells, so that pointing
// at one of tens of thousands costs next to nothing.

const CELLS = 64;
const REACH = 12; // pixels within which a point is meant
const STEP = 60; // pixels of an arrow key

export class Plane {
  constructor(canvas, points, { moved, pointed, opened }) {
    Object.assign(this, { canvas, points, moved, pointed, opened });
    this.marked = null;
    this.current = null;
    this.fit();
    this.index();
    this.view = { x: 0.5, y: 0.5, scale: 1 };
  }

  // Coordinates become shares of a square, whatever the method made of them.
  fit() {
    const { x, y } = this.points;
    const range = (values) => {
      let low = Infinity;
      let high = -Infinity;
      for (const value of values) {
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
      return [low, high - low || 1];
    };
    const [left, wide] = range(x);
    const [low, high] = range(y);
    this.x = Float32Array.from(x, (value) => 0.04 + (0.92 * (value - left)) / wide);
    this.y = Float32Array.from(y, (value) => 0.96 - (0.92 * (value - low)) / high);
  }

  index() {
    this.cells = Array.from({ length: CELLS * CELLS }, () => []);
    for (let index = 0; index < this.x.length; index += 1) {
      this.cells[this.cellOf(this.x[index], this.y[index])].push(index);
    }
  }

  cellOf(x, y) {
    const bound = (value) => Math.min(CELLS - 1, Math.max(0, Math.floor(value * CELLS)));
    return bound(y) * CELLS + bound(x);
  }

  start(signal) {
    const { canvas } = this;
    const listen = (target, event, handler, more = {}) =>
      target.addEventListener(event, handler, { signal, ...more });
    listen(canvas, "pointermove", (event) => this.onMove(event));
    listen(canvas, "pointerdown", (event) => this.onDown(event));
    listen(canvas, "pointerup", (event) => this.onUp(event));
    listen(canvas, "pointerleave", () => this.highlight(null));
    listen(canvas, "wheel", (event) => this.onWheel(event), { passive: false });
    listen(canvas, "keydown", (event) => this.onKey(event));
    listen(document, "themechange", () => this.draw());
    listen(matchMedia("(prefers-color-scheme: dark)"), "change", () => this.draw());
    const watch = new ResizeObserver(() => this.resize());
    watch.observe(canvas);
    listen(signal, "abort", () => watch.disconnect());
    this.resize();
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas;
    this.ratio = devicePixelRatio || 1;
    this.wide = clientWidth;
    this.high = clientHeight;
    this.canvas.width = Math.round(clientWidth * this.ratio);
    this.canvas.height = Math.round(clientHeight * this.ratio);
    this.change();
  }

  // Pixels of the unit square; the square fills the shorter side.
  get unit() {
    return Math.min(this.wide, this.high) * this.view.scale;
  }

  toScreen(index) {
    return [
      this.wide / 2 + (this.x[index] - this.view.x) * this.unit,
      this.high / 2 + (this.y[index] - this.view.y) * this.unit,
    ];
  }

  toPlane(left, top) {
    return [
      this.view.x + (left - this.wide / 2) / this.unit,
      this.view.y + (top - this.high / 2) / this.unit,
    ];
  }

  change() {
    this.draw();
    this.moved();
  }

  reset() {
    this.view = { x: 0.5, y: 0.5, scale: 1 };
    this.change();
  }

  zoom(factor, left = this.wide / 2, top = this.high / 2) {
    const [x, y] = this.toPlane(left, top);
    this.view.scale = Math.min(60, Math.max(0.6, this.view.scale * factor));
    const [nowX, nowY] = this.toPlane(left, top);
    this.view.x += x - nowX;
    this.view.y += y - nowY;
    this.change();
  }

  pan(left, top) {
    const bound = (value) => Math.min(1, Math.max(0, value));
    this.view.x = bound(this.view.x - left / this.unit);
    this.view.y = bound(this.view.y - top / this.unit);
    this.change();
  }

  mark(test) {
    this.marked = test;
    this.draw();
  }

  highlight(index) {
    if (index === this.current) return;
    this.current = index;
    this.draw();
    this.pointed(index);
  }

  visible(index) {
    const [left, top] = this.toScreen(index);
    return left >= 0 && top >= 0 && left <= this.wide && top <= this.high;
  }

  inSight() {
    const found = [];
    for (let index = 0; index < this.x.length; index += 1) {
      if ((!this.marked || this.marked(index)) && this.visible(index)) found.push(index);
    }
    return found;
  }

  nearest(left, top) {
    const [x, y] = this.toPlane(left, top);
    const reach = REACH / this.unit;
    const around = Math.max(1, Math.ceil(reach * CELLS));
    let best = null;
    let least = REACH * REACH;
    for (let row = -around; row <= around; row += 1) {
      for (let column = -around; column <= around; column += 1) {
        for (const index of this.cells[this.cellOf(x + column / CELLS, y + row / CELLS)]) {
          const [a, b] = this.toScreen(index);
          const far = (a - left) ** 2 + (b - top) ** 2;
          if (far < least) [best, least] = [index, far];
        }
      }
    }
    return best;
  }

  onDown(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.drag = { left: event.offsetX, top: event.offsetY, far: 0 };
  }

  onMove(event) {
    if (!this.drag) {
      this.highlight(this.nearest(event.offsetX, event.offsetY));
      return;
    }
    const left = event.offsetX - this.drag.left;
    const top = event.offsetY - this.drag.top;
    this.drag = { left: event.offsetX, top: event.offsetY, far: this.drag.far + Math.hypot(left, top) };
    this.pan(left, top);
  }

  onUp(event) {
    const still = this.drag && this.drag.far < 4;
    this.drag = null;
    if (!still) return;
    const index = this.nearest(event.offsetX, event.offsetY);
    if (index !== null) this.opened(index);
  }

  onWheel(event) {
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
  }

  onKey(event) {
    const moves = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
    if (moves[event.key]) this.pan(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoom(1.5);
    else if (event.key === "-") this.zoom(1 / 1.5);
    else if (event.key === "0") this.reset();
    else return;
    event.preventDefault();
  }

  draw() {
    const pen = this.canvas.getContext("2d");
    const colour = (name) => this.colour(name);
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    pen.clearRect(0, 0, this.wide, this.high);
    pen.fillStyle = colour("--dot");
    pen.globalAlpha = this.marked ? 0.18 : 0.55;
    this.drawPoints(pen, (index) => !this.marked || !this.marked(index));
    pen.globalAlpha = 1;
    pen.fillStyle = colour("--accent");
    if (this.marked) this.drawPoints(pen, this.marked);
    this.drawNames(pen, colour);
    if (this.current !== null) this.drawCurrent(pen, colour);
  }

  // A canvas takes no light-dark(): the style sheet's colour as the browser resolves it.
  colour(name) {
    this.canvas.style.color = `var(${name})`;
    return getComputedStyle(this.canvas).color;
  }

  radius(index) {
    const grown = Math.min(2.5, Math.sqrt(this.view.scale));
    return (1.2 + 4 * Math.sqrt(this.points.density[index] ?? 0)) * grown;
  }

  drawPoints(pen, wanted) {
    pen.beginPath();
    for (let index = 0; index < this.x.length; index += 1) {
      if (!this.visible(index) || !wanted(index)) continue;
      const [left, top] = this.toScreen(index);
      pen.moveTo(left + this.radius(index), top);
      pen.arc(left, top, this.radius(index), 0, 2 * Math.PI);
    }
    pen.fill();
  }

  // Names where there is room: the most frequent first, none over another.
  drawNames(pen, colour) {
    const { density, names } = this.points;
    const seen = this.inSight().sort((one, other) => (density[other] ?? 0) - (density[one] ?? 0));
    const taken = [];
    pen.font = "12px system-ui, sans-serif";
    pen.fillStyle = colour("--ink");
    for (const index of seen.slice(0, 400)) {
      const [left, top] = this.toScreen(index);
      const begin = left + this.radius(index) + 3;
      const end = begin + pen.measureText(names[index]).width + 4;
      const clash = ([from, to, line]) => begin < to && end > from && Math.abs(line - top) < 15;
      if (taken.some(clash)) continue;
      taken.push([begin, end, top]);
      pen.fillText(names[index], begin, top + 4);
    }
  }

  drawCurrent(pen, colour) {
    const [left, top] = this.toScreen(this.current);
    pen.strokeStyle = colour("--accent");
    pen.lineWidth = 2.5;
    pen.beginPath();
    pen.arc(left, top, this.radius(this.current) + 5, 0, 2 * Math.PI);
    pen.stroke();
  }
}
