// One chart in one figure: uPlot in the colours of the page, with a cursor shared by all charts.

import uPlot from "./vendor/uPlot.esm.js";

const HEIGHT = 190;
const cursors = uPlot.sync("steps");
const scheme = matchMedia("(prefers-color-scheme: dark)");

export class Chart {
  /** `columns` turns steps into one list of numbers per label. `fromZero`: what is compared by size. */
  constructor(id, labels, columns, fromZero = true) {
    this.figure = document.getElementById(id);
    this.labels = labels;
    this.columns = columns;
    this.fromZero = fromZero;
    this.steps = [];
    this.plot = null;
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.figure);
    scheme.addEventListener("change", () => this.redraw());
  }

  draw(steps) {
    this.steps = steps;
    const columns = this.columns(steps);
    if (!columns.some((column) => column.some((value) => value !== null))) return;
    const data = [steps.map((step) => step.step), ...columns];
    if (this.plot === null) {
      this.figure.querySelector("p")?.remove();
      this.plot = new uPlot(this.options(), data, this.figure);
    } else {
      this.plot.setData(data);
    }
  }

  redraw() {
    this.plot?.destroy();
    this.plot = null;
    this.draw(this.steps);
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
    const isLoss = this.labels[0] === "raw";
    const series = this.labels.map((label, index) => ({
      label,
      stroke: colour(index === 0 || isLoss ? "--curve" : "--curve-2"),
      width: label === "raw" ? 1 : 2,
      alpha: label === "raw" ? 0.5 : 1,
      points: { show: false },
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
      padding: [8, 8, 0, 0],
    };
  }
}

/** The value under the cursor; the newest one while there is no cursor. */
function shownOrNewest(plot, value, index) {
  return written(value ?? plot.data[index].findLast((item) => item !== null));
}

function written(value) {
  if (value === null || value === undefined) return "–";
  if (Math.abs(value) >= 1e6) return `${(value / 1e6).toPrecision(3)} M`;
  if (Math.abs(value) >= 1e4) return `${(value / 1e3).toPrecision(3)} k`;
  return String(Number(value.toPrecision(4)));
}
