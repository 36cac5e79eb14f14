// The four curves of a job over its steps, with marks where it went back or started again. Fetches
// only steps it has not seen; when a long job has more than a screen can show, the server is asked for
// an even sample of all.

import { Chart } from "./chart.js";
import { Story } from "./story.js";

const MOST_POINTS = 2000;
const SMOOTHED_SHARE = 0.05; // of the curve: short curves follow closely, long ones calmly

export class Curves {
  constructor(job) {
    this.url = `/api/v1/jobs/${job}/steps`;
    this.story = new Story(job);
    this.steps = [];
    this.isUpdating = false;
    this.charts = [
      new Chart("chart-loss", ["raw", "smoothed", "held out"], (steps) => {
        const losses = steps.map((step) => step.loss);
        return [losses, smoothed(losses)];
      }, false),
      new Chart("chart-speed", ["tokens/s"], (steps) => [steps.map((step) => step.tokens_per_second)]),
      new Chart("chart-mfu", ["MFU %"], (steps) => [
        steps.map((step) => (step.mfu === null ? null : 100 * step.mfu)),
      ]),
      new Chart("chart-time", ["step", "exposed exchange"], (steps) => [
        steps.map((step) => step.seconds),
        steps.map((step) => step.exposed_seconds),
      ]),
    ];
  }

  async update() {
    if (this.isUpdating) return;
    this.isUpdating = true;
    try {
      await this.story.update();
      await this.fetchNew();
      for (const chart of this.charts) chart.draw(this.steps, this.story);
    } finally {
      this.isUpdating = false;
    }
  }

  async fetchNew() {
    this.steps = this.steps.filter((step) => !this.story.isUndone(step));
    const last = this.steps.at(-1)?.step ?? 0;
    const fresh = await this.fetch(`after=${last}&points=${MOST_POINTS}`);
    const isEven = this.steps.length + fresh.length <= MOST_POINTS;
    this.steps = isEven ? this.steps.concat(fresh) : await this.fetch(`points=${MOST_POINTS / 2}`);
  }

  async fetch(query) {
    const answer = await fetch(`${this.url}?${query}`);
    if (!answer.ok) throw new Error(answer.statusText);
    return (await answer.json()).steps.filter((step) => !this.story.isUndone(step));
  }
}

/** Exponential moving average, corrected for its start; gaps stay gaps. */
function smoothed(values) {
  const smoothing = 2 / (Math.max(3, SMOOTHED_SHARE * values.length) + 1);
  let sum = 0;
  let weight = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = (1 - smoothing) * sum + smoothing * value;
    weight = (1 - smoothing) * weight + smoothing;
    return sum / weight;
  });
}
