// One chart in one figure: uPlot in the colours of the page, with a cursor shared by all charts.

import uPlot from "./vendor/uPlot.esm.js";

const HEIGHT = 190;
const HELD_OUT = "held out";
const cursors = uPlot.sync("steps");
const scheme = matchMedia("(prefers-color-scheme: dark)");

export class Chart {
  /** `columns` turns steps into one list of numbers per label; the label "held out" stands for
   * evaluations. `fromZero`: what is compared by size. */
  constructor(id, labels, columns, fromZero = true) {
    this.figure = document.getElementById(id);
    this.caption = this.figure.querySelector("figcaption").textContent;
    this.labels = labels;
    this.columns = columns;
    this.fromZero = fromZero;
    this.steps = [];
    this.story = null;
    this.plot = null;
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.figure);
    scheme.addEventListener("change", () => this.redraw());
  }

  draw(steps, story) {
    this.steps = steps;
    this.story = story;
    const columns = this.columns(steps);
    const isEmpty = !columns.some((column) => column.some((value) => value !== null));
    if (isEmpty && this.plot === null) return;
    const curves = [steps.map((step) => step.step), ...columns];
    const held = story.evaluations;
    const data = this.labels.includes(HELD_OUT)
      ? uPlot.join([curves, [held.map((found) => found.step), held.map((found) => found.loss)]])
      : curves;
    if (this.plot === null) {
      this.figure.querySelector("p")?.remove();
      this.plot = new uPlot(this.options(), data, this.figure);
    } else {
      this.plot.setData(data);
    }
    this.describe();
  }

  /** Says what a picture cannot to those who do not see it. */
  describe() {
    const marks = this.story.marks.map(({ step, text }) => `step ${step}: ${text}`);
    const canvas = this.figure.querySelector("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", [this.caption, ...marks].join("; "));
  }

  redraw() {
    this.plot?.destroy();
    this.plot = null;
    if (this.story !== null) this.draw(this.steps, this.story);
  }

  size() {
    const style = getComputedStyle(this.figure);
    const padding = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
    return { width: this.figure.clientWidth - padding, height: HEIGHT };
  }

  options() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = {
      stroke: colour("--quiet"),
      font: `11px ${style.fontFamily}`,
      grid: { stroke: colour("--line"), width: 1 },
      ticks: { show: false },
    };
    const series = this.labels.map((label, index) => ({
      label,
      stroke: colour(index === 0 || label === "smoothed" ? "--curve" : "--curve-2"),
      width: label === "raw" ? 1 : 2,
      alpha: label === "raw" ? 0.5 : 1,
      points: { show: label === HELD_OUT, size: 6, fill: colour("--curve-2") },
      value: shownOrNewest,
    }));
    const y = this.fromZero ? { range: (_, __, most) => [0, 1.1 * (most || 1)] } : {};
    return {
      ...this.size(),
      series: [{ label: "step", value: shownOrNewest }, ...series],
      scales: { x: { time: false }, y },
      axes: [
        { ...axis, size: 28 },
        { ...axis, size: 52, values: (_, ticks) => ticks.map(written) },
      ],
      cursor: { sync: { key: cursors.key }, points: { size: 6 }, drag: { x: true, y: false } },
      hooks: { draw: [(plot) => drawMarks(plot, this.story.marks, colour)] },
      padding: [8, 8, 0, 0],
    };
  }
}

/** A line at every step where something happened, and what it was. Newer words are written lower
 * where they would run into others. */
function drawMarks(plot, marks, colour) {
  const { ctx, bbox } = plot;
  const unit = devicePixelRatio;
  const line = 14 * unit;
  let end = -Infinity;
  let row = 0;
  ctx.save();
  ctx.font = `${11 * unit}px ${getComputedStyle(document.documentElement).fontFamily}`;
  ctx.textBaseline = "top";
  ctx.textAlign = "left";
  ctx.lineWidth = unit;
  ctx.setLineDash([4 * unit, 3 * unit]);
  for (const mark of marks) {
    const x = Math.round(plot.valToPos(mark.step, "x", true));
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    const width = ctx.measureText(mark.text).width;
    const isRight = x + 5 * unit + width < bbox.left + bbox.width;
    const left = isRight ? x + 5 * unit : x - 5 * unit - width;
    row = left < end ? (row + 1) % 6 : 0;
    end = left + width + 8 * unit;
    ctx.strokeStyle = ctx.fillStyle = colour(mark.kind === "job.started" ? "--quiet" : "--bad");
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.fillText(mark.text, left, bbox.top + row * line);
  }
  ctx.restore();
}

/** The value under the cursor; the newest one while there is no cursor. */
function shownOrNewest(plot, value, index) {
  return written(value ?? plot.data[index].findLast((item) => item !== null && item !== undefined));
}

function written(value) {
  if (value === null || value === undefined) return "–";
  if (Math.abs(value) >= 1e6) return `${(value / 1e6).toPrecision(3)} M`;
  if (Math.abs(value) >= 1e4) return `${(value / 1e3).toPrecision(3)} k`;
  return String(Number(value.toPrecision(4)));
}
