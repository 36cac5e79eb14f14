// What a job's events say about its curves: where it went back, where it started again, and what
// held-out text said. Fetches only events it has not seen.

const WORDS = {
  "spike.rewound": (data) => `spike, back to ${data.to_step}`,
  "spike.ignored": () => "spike, trained through",
  "job.started": (data) => `attempt ${data.attempt}`,
};

export class Story {
  constructor(job) {
    this.url = `/api/v1/jobs/${job}/events`;
    this.last = 0;
    this.marks = [];
    this.evaluations = [];
    this.rewinds = [];
  }

  async update() {
    for (;;) {
      const answer = await fetch(`${this.url}?after=${this.last}`);
      if (!answer.ok) throw new Error(answer.statusText);
      const { events, next_after: last } = await answer.json();
      if (events.length === 0) return;
      for (const event of events) this.read(event);
      this.last = last;
    }
  }

  /** Whether a step is of a timeline that was left: a rewind undid it and it is not there anew. */
  isUndone(step) {
    return this.rewinds.some(
      ({ to_step: last, generation }) => step.step > last && step.generation < generation,
    );
  }

  read({ kind, data }) {
    if (kind === "job.evaluated") {
      this.evaluations.push({ step: data.step, loss: data.loss });
    } else if (kind === "spike.rewound") {
      this.rewinds.push(data);
      this.evaluations = this.evaluations.filter(({ step }) => step <= data.to_step);
    }
    // A first start is no news, and that of a rewind is marked where it was decided.
    const isTold = kind === "job.started" && (!(data.attempt > 1) || data.is_rewound);
    if (kind in WORDS && !isTold) {
      this.marks.push({ step: data.step, text: WORDS[kind](data), kind });
    }
  }
}
